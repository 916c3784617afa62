"""The number format in which this machine's processor is fastest."""

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Linux' description of the processors."""
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
"""Flags in /proc/cpuinfo of x86-64 processors that multiply bfloat16 matrices in hardware."""


def multiplies_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Returns whether the processor has instructions for products of bfloat16 matrices; False when its flags cannot be
    read."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not BFLOAT16_FLAGS.isdisjoint(flags.split())


def cpu_dtype() -> str:
    """Returns vLLM's `dtype` for an engine on this processor: "bfloat16" or "float32".

    Without bfloat16 instructions each product is emulated row by row: on an AVX2 processor a decode step of the 135M
    base model took 2.6 times as long as in float32 at 8 rows and 3.8 times at 32, and a prefill 6 times as long. Only a
    single row, which is bound by memory, was faster (0.6 times). `python -m benchmarks.lora_ops --dtype` measures the
    base model's matrices alone.
    """
    return "bfloat16" if multiplies_bfloat16() else "float32"
