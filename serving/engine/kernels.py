"""LoRA products of a few rows on CPU, compiled by Numba (0.65, which vLLM 0.29 requires on CPU).

A batch of decoding requests has a few rows for each adapter. A matrix library is slow at that (PyTorch 2.13's products
reach 12 GFLOP/s with 8 rows on a core that reads weights at 12 GB/s), and a stacked product computes every row with
every adapter. Here each adapter in use is read once, in the order in which it lies in memory, and nothing else is; sums
are in fp32 also where weights are bf16. One thread: on a machine of two cores PyTorch's products are slower with both
(8 rows of 8 adapters: 60 ms against 20).

Shapes: S slots, m = n·R ranks of all output slices, P rows with an adapter, grouped by slot: rows
`rows[starts[g]:starts[g + 1]]` have the adapter of `slots[g]`. Weights are passed as they lie: fp32, or the 16 bits of
bf16 as uint16 (`as_array`). x, y and down are fp32, integers int64, all arrays C-contiguous.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload

DTYPES = (torch.float32, torch.bfloat16)
"""Types of the weights that the kernels take."""


def prepare(dtype: torch.dtype) -> None:
    """Compiles the kernels for weights of this type. That takes some seconds the first time; the result is kept on
    disk, beside this file or in the user's cache folder, if one of them can be written.

    Raises:
        ValueError: the type is not one of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"kernels take weights in {DTYPES}, not in {dtype}")
    weights = ("float32" if dtype == torch.float32 else "uint16") + "[:, :, ::1]"
    groups = "int64[::1], int64[::1], int64[::1]"
    shrink.compile(f"void(float32[:, ::1], {weights}, {groups}, float32[:, ::1])")
    expand.compile(f"void(float32[:, ::1], {weights}, {groups}, float32[:, ::1], int64, int64, int64, float64)")


def as_array(weights: torch.Tensor) -> Any:
    """Returns a view of fp32 or bf16 weights in the form that the kernels take."""
    return (weights if weights.dtype == torch.float32 else weights.view(torch.uint16)).numpy()


def _compiled(function: Callable[..., None]) -> Any:
    """Compiles a kernel. Sums may be taken in any order, so that they can be vectorised; NaN and infinity are kept."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written for the cache
        return njit(**options)(function)


def _value(weight: Any) -> Any:
    """Stands for the conversion of a weight to fp32 in compiled code, where `_value_of` implements it."""
    raise NotImplementedError  # compiled code takes `_value_of`


@overload(_value, inline="always", strict=False)  # the two signatures' annotations differ
def _value_of(weight: Any) -> Callable[[Any], Any]:
    if isinstance(weight, types.Float):
        return lambda weight: weight
    return lambda weight: np.uint32(np.uint32(weight) << np.uint32(16)).view(np.float32)


@_compiled
def shrink(x: Any, a: Any, rows: Any, starts: Any, slots: Any, down: Any) -> None:
    """`down[p] = A[slot(p)] x[rows[p]]` for x (T, in), a (S, m, in), down (P, m)."""
    for g in range(len(slots)):
        for r in range(a.shape[1]):
            weights = a[slots[g], r]
            p, end = starts[g], starts[g + 1]
            while p + 4 <= end:  # four rows for each reading of the weights
                x0, x1, x2, x3 = x[rows[p]], x[rows[p + 1]], x[rows[p + 2]], x[rows[p + 3]]
                s0 = s1 = s2 = s3 = np.float32(0)
                for i in range(x.shape[1]):
                    w = _value(weights[i])
                    s0 += w * x0[i]
                    s1 += w * x1[i]
                    s2 += w * x2[i]
                    s3 += w * x3[i]
                down[p, r], down[p + 1, r], down[p + 2, r], down[p + 3, r] = s0, s1, s2, s3
                p += 4
            while p < end:
                x0 = x[rows[p]]
                s0 = np.float32(0)
                for i in range(x.shape[1]):
                    s0 += _value(weights[i]) * x0[i]
                down[p, r] = s0
                p += 1


@_compiled
def expand(
    y: Any,
    b: Any,
    rows: Any,
    starts: Any,
    slots: Any,
    down: Any,
    first: int,
    offset: int,
    width: int,
    scale: float,
) -> None:
    """`y[rows[p], offset:offset + width] += scale · B[slot(p)] down[p, first:first + R]` for y (T, ≥ offset + width),
    b (S, R, out) with out ≥ width, down (P, m)."""
    ranks, factor = b.shape[1], np.float32(scale)
    for g in range(len(slots)):
        weights = b[slots[g]]
        for p in range(starts[g], starts[g + 1]):
            own = down[p, first : first + ranks]
            into = y[rows[p], offset : offset + width]
            r = 0
            while r + 4 <= ranks:  # four ranks for each reading and writing of y
                w0, w1, w2, w3 = weights[r], weights[r + 1], weights[r + 2], weights[r + 3]
                d0, d1, d2, d3 = own[r] * factor, own[r + 1] * factor, own[r + 2] * factor, own[r + 3] * factor
                for o in range(width):
                    into[o] += d0 * _value(w0[o]) + d1 * _value(w1[o]) + d2 * _value(w2[o]) + d3 * _value(w3[o])
                r += 4
            while r < ranks:
                w0 = weights[r]
                d0 = own[r] * factor
                for o in range(width):
                    into[o] += d0 * _value(w0[o])
                r += 1
