"""Measures what routing costs beside the stock vLLM server."""
