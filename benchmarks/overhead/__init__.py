"""What routing costs beside the stock vLLM server."""
