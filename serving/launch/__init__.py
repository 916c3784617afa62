"""The process that starts the stack on this machine, watches it and takes it down.

stack            starts everything in order, waits until it answers, serves until a signal
deploy_process   hands the applications to Ray Serve, in a process of its own
instance         the stack of one HTTP port: its URL, run folder, lock and HAProxy launcher
ports            the ports of a stack, the processes that hold them, and what an earlier run left behind
environment      the environment variables that Ray and vLLM read at import
edge_settings    what configuration, environment and key file tell the edge (`serving.edge`)
haproxy_admin    reads and commands HAProxy through its admin socket
drain            stops a stack without cutting running requests
market_setup     where the market of a stack on this machine lies
"""
