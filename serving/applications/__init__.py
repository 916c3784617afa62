"""The small Ray Serve applications beside the endpoint: the market, task specifications, metrics."""
