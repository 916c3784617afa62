"""The engine replica's front end: what a request meets between HAProxy and vLLM, and which adapters are registered."""
