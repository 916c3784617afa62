"""Measures what adapter paging costs and saves beside stock vLLM."""
