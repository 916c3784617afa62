"""What this machine's processor is good at."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags of x86-64 processors that multiply bfloat16 matrices in hardware."""


def multiplies_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has instructions for products of bfloat16 matrices; False where nothing says so."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not BFLOAT16_FLAGS.isdisjoint(flags.split())


def cpu_dtype() -> str:
    """vLLM's `dtype` for an engine on this processor.

    Without such instructions every bfloat16 product is emulated row by row: on an AVX2 processor a decode step of the
    135M base model took 2.6 times as long as in float32 at 8 rows and 3.8 times at 32, a prefill 6 times; only a single
    row, which is bound by memory, was faster (0.6). The base matrices alone: `python -m benchmarks.lora_ops --dtype`.
    """
    return "bfloat16" if multiplies_bfloat16() else "float32"
