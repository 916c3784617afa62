"""The seam to vLLM: worker classes, adapter managers and the CPU LoRA operators."""
