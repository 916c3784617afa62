"""The market of a running stack: how changes reach routers and engine replicas, over HTTP and on the command line."""
