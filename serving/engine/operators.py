"""LoRA products on CPU: `y[t] += B[slot(t)] · A[slot(t)] · x[t]`, each row t with the adapter of its own slot, or with
none.

vLLM 0.29 gathers a whole A and a whole B for each token (`vllm/lora/ops/torch_ops/lora_ops.py`), which is bound by
memory bandwidth, and lets rows without an adapter (slot −1) wrap around to the last slot. Here no weight is copied, and
rows without an adapter are never touched:

- rows of one adapter that lie side by side and are many (a prefill) take that adapter's A and B by PyTorch's products;
- all others, put together by slot, by kernels that read each adapter in use once (`serving.engine.kernels`); in a type
  that these do not take (fp16) by PyTorch's products too, slot by slot.

Shapes: S slots, R largest rank, n output slices (three for q, k, v in one layer; two for gate and up), T rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine import kernels

MIN_RUN = 32
"""Number of neighbouring rows of one adapter from which on PyTorch's products are as fast as the kernels, and use all
threads (rank 16 at 576 to 1536 features, fp32, one thread: `python -m benchmarks.lora_ops`)."""

NO_ADAPTER = -1
"""Slot of a row without an adapter, as in vLLM's index tensors."""

Rows: TypeAlias = slice | Tensor
"""An index of rows: a slice, or (rows,) int64."""


class Run(NamedTuple):
    """Rows `start` to `stop` - 1, which use the adapter of one slot."""

    start: int
    stop: int
    slot: int


class Grouped(NamedTuple):
    """Rows by slot, in the form that the kernels take: `rows[starts[g]:starts[g + 1]]` use the adapter of
    `slots[g]`."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    slots: NDArray[np.int64]


class BatchPlan(NamedTuple):
    """The plan by which one batch's rows are computed. Rows in none of its parts have no adapter, and are never
    touched."""

    long: tuple[Run, ...]
    short: Grouped | None
    slots: int
    """Bit s is set when a row uses slot s."""

    def parts(self) -> Iterator[tuple[int, Rows]]:
        """Yields each slot in use with an index of its rows."""
        yield from self.long_parts()
        if self.short is not None:
            for slot, start, stop in zip(self.short.slots, self.short.starts, self.short.starts[1:], strict=False):
                yield int(slot), torch.from_numpy(self.short.rows[start:stop])

    def long_parts(self) -> Iterator[tuple[int, Rows]]:
        """Yields the slots of the long runs with an index of their rows."""
        return ((run.slot, slice(run.start, run.stop)) for run in self.long)


NO_ADAPTERS = BatchPlan((), None, 0)
"""The plan of a batch in which no row has an adapter."""


def plan_batch(runs: Sequence[Run]) -> BatchPlan:
    """Makes the plan for rows that `runs` cover in order (`slot` may be `NO_ADAPTER`): each long run alone, all other
    rows together."""
    long: list[Run] = []
    short: dict[int, list[int]] = {}
    used = 0
    for run in runs:
        if run.slot == NO_ADAPTER:
            continue
        used |= 1 << run.slot
        if run.stop - run.start >= MIN_RUN:
            long.append(run)
        else:
            short.setdefault(run.slot, []).extend(range(run.start, run.stop))
    return BatchPlan(tuple(long), _grouped(short) if short else None, used)


def _grouped(rows_of: dict[int, list[int]]) -> Grouped:
    slots = sorted(rows_of)
    rows = [row for slot in slots for row in rows_of[slot]]
    starts = np.cumsum([0, *(len(rows_of[slot]) for slot in slots)], dtype=np.int64)
    return Grouped(np.array(rows, np.int64), starts, np.array(slots, np.int64))


@dataclass
class LayerWeights:
    """The adapters of one layer in all slots, laid out as the products read them."""

    a: Tensor  # (S, n, R, in)
    b: tuple[Tensor, ...]  # n × (S, R, out_i)
    occupied: list[int]  # for slice i, bit s is set when slot s may hold weights other than zero

    def __post_init__(self) -> None:
        self.slots, self.slices, self.rank, features = self.a.shape
        every = self.a.view(self.slots, self.slices * self.rank, features)
        self.a_of_slot = tuple(every.transpose(1, 2))
        self.compiled = self.a.dtype in kernels.DTYPES
        if self.compiled:
            kernels.prepare(self.a.dtype)
            self.a_array = kernels.as_array(every)
            self.b_arrays = tuple(map(kernels.as_array, self.b))

    @classmethod
    def zeros(cls, slots: int, rank: int, features: int, outputs: Sequence[int], dtype: torch.dtype) -> "LayerWeights":
        """Makes an empty layer of `slots` slots of this rank, with `features` inputs and one slice for each of
        `outputs`."""
        a = torch.zeros(slots, len(outputs), rank, features, dtype=dtype)
        return cls(a, tuple(torch.zeros(slots, rank, out, dtype=dtype) for out in outputs), [0] * len(outputs))

    @classmethod
    def of_stacks(cls, a_stacked: Sequence[Tensor], b_stacked: Sequence[Tensor]) -> "LayerWeights":
        """Copies vLLM's stacks, n × (S, 1, R, in) and n × (S, 1, out_i, R), and takes them as occupied everywhere."""
        a = torch.stack([stack.squeeze(1) for stack in a_stacked], dim=1).contiguous()
        b = tuple(stack.squeeze(1).transpose(1, 2).contiguous() for stack in b_stacked)
        return cls(a, b, [(1 << a.shape[0]) - 1] * len(b))

    def stacks(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Returns views of the same memory in vLLM's shapes, for its layers to write adapters into."""
        return (
            tuple(self.a[:, i : i + 1] for i in range(self.slices)),
            tuple(b.transpose(1, 2).unsqueeze(1) for b in self.b),
        )

    def mark(self, slot: int, filled: Sequence[bool]) -> None:
        """Notes that `slot` was written, and which of its slices now hold an adapter's weights."""
        for i, full in enumerate(filled):
            self.occupied[i] = self.occupied[i] | 1 << slot if full else self.occupied[i] & ~(1 << slot)


def add_lora(
    y: Tensor,
    x: Tensor,
    layer: LayerWeights,
    plan: BatchPlan,
    outputs: Sequence[int],
    offset: int = 0,
    scale: float = 1.0,
) -> None:
    """Adds `scale · B[slot(t)] A[slot(t)] x[t]` to `y[t]` in place, for every slice i in its columns of y.

    Args:
        y: (T, at least offset + sum(outputs)).
        x: (T, in).
        layer: the adapters of the layer.
        plan: the slots of the T rows.
        outputs: width of each slice in y, which may be less than the padded width of its B.
        offset: first column of y that is written.
        scale: factor of the product.
    """
    needed = [i for i in range(layer.slices) if layer.occupied[i] & plan.slots]
    if not needed:
        return
    starts = [offset + sum(outputs[:i]) for i in range(layer.slices)]
    columns = [(i, starts[i], outputs[i]) for i in needed]
    if layer.compiled and plan.short is not None:
        _add_short(y, x, layer, plan.short, columns, scale)
    for slot, rows in plan.long_parts() if layer.compiled else plan.parts():
        _add_part(y, x, layer, slot, rows, columns, scale)


Columns = Sequence[tuple[int, int, int]]
"""Slices to compute, each as (number, first column of y, width)."""


def _add_short(y: Tensor, x: Tensor, layer: LayerWeights, group: Grouped, needed: Columns, scale: float) -> None:
    down = np.empty((len(group.rows), layer.a_array.shape[1]), np.float32)
    kernels.shrink(x.float().contiguous().numpy(), layer.a_array, *group, down)

    def expand(into: Tensor, rows: NDArray[np.int64]) -> None:
        for i, start, width in needed:
            first, b = i * layer.rank, layer.b_arrays[i]
            kernels.expand(into.numpy(), b, rows, group.starts, group.slots, down, first, start, width, scale)

    if y.dtype == torch.float32 and y.is_contiguous():
        expand(y, group.rows)
    else:
        index = torch.from_numpy(group.rows)
        own = y[index].float()
        expand(own, np.arange(len(group.rows)))
        y[index] = own.to(y.dtype)


def _add_part(y: Tensor, x: Tensor, layer: LayerWeights, slot: int, rows: Rows, needed: Columns, scale: float) -> None:
    down = torch.mm(x[rows].to(layer.a.dtype), layer.a_of_slot[slot])
    for i, start, width in needed:
        if layer.occupied[i] >> slot & 1:
            into = y[rows, start : start + width]
            _add_product(into, down[:, i * layer.rank : (i + 1) * layer.rank], layer.b[i][slot], scale)
            if isinstance(rows, Tensor):  # indexing by a tensor made a copy
                y[rows, start : start + width] = into


def _add_product(y: Tensor, down: Tensor, up: Tensor, scale: float) -> None:
    """Adds `scale · down · up` to y; y may be narrower than `up` (padded output) or of another type (fp32 logits)."""
    up = up[:, : y.shape[1]]
    if y.dtype == up.dtype:
        y.addmm_(down, up, alpha=scale)
    else:
        y.add_(torch.mm(down, up), alpha=scale)
