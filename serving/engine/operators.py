"""LoRA products on CPU: `y[t] += B[slot(t)] · A[slot(t)] · x[t]`, each row t with the adapter of its own slot, or with
none.

vLLM 0.29 gathers a whole A and a whole B for each token (`vllm/lora/ops/torch_ops/lora_ops.py`), which is bound by
memory bandwidth, and lets rows without an adapter (slot −1) wrap around to the last slot. Here no weight is copied:

- rows of one adapter that lie side by side and are many (a prefill), or that are all there is, take that adapter's A
  and B alone; a few of them in fp32, since a bf16 product costs oneDNN about 17 µs before it starts, and one in fp32 3;
- other rows take one product with the A of all slots stacked, a mask that leaves each row its own slot's part, and one
  product per output slice with the stacked B.

Both are exact: in the stacked form the other slots contribute products with zero. A non-finite weight would turn those
zeros into NaN, so adapters are checked when they are loaded (`serving.engine.adapters`).

Shapes: S slots, R largest rank, n output slices (three for q, k, v in one layer; two for gate and up), T rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# From this many neighbouring rows of one adapter on, its own two small products are cheaper than a share of the stacked
# ones (measured for 8 slots of rank 16 at 576 to 1536 features, bf16, `python -m benchmarks.lora_ops`).
MIN_RUN = 16

BASE = -1  # the slot of a row without an adapter, as in vLLM's index tensors


class Run(NamedTuple):
    """Rows `start` to `stop` with the adapter of one slot."""

    start: int
    stop: int
    slot: int


class Mixed(NamedTuple):
    """Rows `start` to `stop` of several slots, base rows among them; `mask` is (rows, S), one-hot or zero."""

    start: int
    stop: int
    mask: Tensor


class BatchPlan(NamedTuple):
    """How one batch's rows are computed. Rows in no piece have no adapter, and are never touched."""

    pieces: tuple[Run | Mixed, ...]
    slots: int  # bit s is set when a row uses slot s


NO_ADAPTERS = BatchPlan((), 0)


def plan_batch(runs: Sequence[Run], slots: int, dtype: torch.dtype) -> BatchPlan:
    """The plan for rows that `runs` cover in order (`slot` may be `BASE`): long runs alone, the short ones between them
    together. `slots` is S; `dtype` that of the weights."""
    pieces: list[Run | Mixed] = []
    short: list[Run] = []
    used = 0

    def flush() -> None:
        while short and short[-1].slot == BASE:
            short.pop()
        if len(short) == 1:
            pieces.append(short[0])
        elif short:
            pieces.append(Mixed(short[0].start, short[-1].stop, one_hot(_slot_of_rows(short), slots, dtype)))
        short.clear()

    for run in runs:
        if run.slot != BASE:
            used |= 1 << run.slot
        if run.stop - run.start >= MIN_RUN:
            flush()
            if run.slot != BASE:
                pieces.append(run)
        elif short or run.slot != BASE:
            short.append(run)
    flush()
    return BatchPlan(tuple(pieces), used)


def _slot_of_rows(runs: Sequence[Run]) -> Tensor:
    return torch.tensor([run.slot for run in runs for _ in range(run.stop - run.start)])


def one_hot(slot_of_rows: Tensor, slots: int, dtype: torch.dtype) -> Tensor:
    """(T,) slots to (T, S): one in the column of the row's slot, all zero where it is `BASE`."""
    return (slot_of_rows.unsqueeze(1) == torch.arange(slots)).to(dtype)


@dataclass
class LayerWeights:
    """The adapters of one layer, all slots, laid out so that both products read them in place."""

    a: Tensor  # (S, n, R, in)
    b: tuple[Tensor, ...]  # n × (out_i, S, R)
    occupied: list[int]  # for slice i, bit s is set when slot s may hold weights other than zero

    def __post_init__(self) -> None:
        slots, n, rank, features = self.a.shape
        self.slots, self.slices, self.rank = slots, n, rank
        # copies for short runs (the weights themselves, where they are fp32 already), made when a slot is first read
        self._a_fp32 = self.a.float()
        self._b_fp32 = tuple(b.float() for b in self.b)
        self._stale = 0  # bit s is set when slot s was written since its copies were made
        # views as the products take them: of all slots, and of each
        self.a_all = self.a.view(slots * n * rank, features).t()
        self.b_all = tuple(b.view(b.shape[0], slots * rank).t() for b in self.b)
        self.of_slot = tuple(_views(self.a, self.b, slot) for slot in range(slots))
        self._of_slot_fp32 = tuple(_views(self._a_fp32, self._b_fp32, slot) for slot in range(slots))

    @classmethod
    def zeros(cls, slots: int, rank: int, features: int, outputs: Sequence[int], dtype: torch.dtype) -> "LayerWeights":
        a = torch.zeros(slots, len(outputs), rank, features, dtype=dtype)
        return cls(a, tuple(torch.zeros(out, slots, rank, dtype=dtype) for out in outputs), [0] * len(outputs))

    @classmethod
    def of_stacks(cls, a_stacked: Sequence[Tensor], b_stacked: Sequence[Tensor]) -> "LayerWeights":
        """A copy of vLLM's stacks, n × (S, 1, R, in) and n × (S, 1, out_i, R), taken as occupied everywhere."""
        a = torch.stack([stack.squeeze(1) for stack in a_stacked], dim=1).contiguous()
        b = tuple(stack.squeeze(1).transpose(0, 1).contiguous() for stack in b_stacked)
        return cls(a, b, [(1 << a.shape[0]) - 1] * len(b))

    def stacks(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Views of the same memory in vLLM's shapes, for its layers to write adapters into."""
        return (
            tuple(self.a[:, i : i + 1] for i in range(self.slices)),
            tuple(b.transpose(0, 1).unsqueeze(1) for b in self.b),
        )

    def fp32_of(self, slot: int) -> "_SlotViews":
        """The weights of one slot in fp32."""
        if self._stale >> slot & 1:
            self._a_fp32[slot].copy_(self.a[slot])
            for copy, b in zip(self._b_fp32, self.b, strict=True):
                copy[:, slot].copy_(b[:, slot])
            self._stale &= ~(1 << slot)
        return self._of_slot_fp32[slot]

    def mark(self, slot: int, filled: Sequence[bool]) -> None:
        """Says that `slot` was written, and which of its slices now hold an adapter's weights."""
        if self._a_fp32 is not self.a:
            self._stale |= 1 << slot
        for i, full in enumerate(filled):
            self.occupied[i] = self.occupied[i] | 1 << slot if full else self.occupied[i] & ~(1 << slot)


class _SlotViews(NamedTuple):
    """One slot's A, (in, n·R), and B of each slice, (R, out_i)."""

    a: Tensor
    b: tuple[Tensor, ...]


def _views(a: Tensor, b: Sequence[Tensor], slot: int) -> _SlotViews:
    return _SlotViews(a[slot].flatten(0, 1).t(), tuple(slice_[:, slot].t() for slice_ in b))


def add_lora(
    y: Tensor,
    x: Tensor,
    layer: LayerWeights,
    plan: BatchPlan,
    outputs: Sequence[int],
    offset: int = 0,
    scale: float = 1.0,
) -> None:
    """`y[t] += scale · B[slot(t)] A[slot(t)] x[t]` in place, for every slice i in its columns of y.

    Args:
        y: (T, at least offset + sum(outputs)); x: (T, in).
        outputs: width of each slice in y, which may be less than the padded width of its B.
    """
    needed = [i for i in range(layer.slices) if layer.occupied[i] & plan.slots]
    if not needed:
        return
    columns = _columns(outputs, offset)
    for piece in plan.pieces:
        rows = slice(piece.start, piece.stop)
        if isinstance(piece, Run):
            few = piece.stop - piece.start < MIN_RUN
            weights = layer.fp32_of(piece.slot) if few else layer.of_slot[piece.slot]
            down = _mm(x[rows], weights.a)
            for i in needed:
                if layer.occupied[i] >> piece.slot & 1:
                    part = down[:, i * layer.rank : (i + 1) * layer.rank]
                    _add_product(y[rows, columns[i]], part, weights.b[i], scale)
        else:
            parts = masked(_mm(x[rows], layer.a_all), layer, piece.mask)
            for i in needed:
                _add_product(y[rows, columns[i]], parts[i], layer.b_all[i], scale)


def masked(down: Tensor, layer: LayerWeights, mask: Tensor) -> Tensor:
    """(T, S·n·R) products with every slot's A to (n, T, S·R), zero outside each row's own slot."""
    rows = down.shape[0]
    own = down.new_empty(layer.slices, rows, layer.slots, layer.rank)
    torch.mul(
        down.view(rows, layer.slots, layer.slices, layer.rank).permute(2, 0, 1, 3),
        mask.to(down.dtype).unsqueeze(-1),
        out=own,
    )
    return own.view(layer.slices, rows, layer.slots * layer.rank)


def _columns(outputs: Sequence[int], offset: int) -> list[slice]:
    columns = []
    for width in outputs:
        columns.append(slice(offset, offset + width))
        offset += width
    return columns


def _mm(x: Tensor, a: Tensor) -> Tensor:
    return torch.mm(x if x.dtype == a.dtype else x.to(a.dtype), a)


def _add_product(y: Tensor, down: Tensor, up: Tensor, scale: float) -> None:
    """`y += scale · down · up`; y may be narrower than `up` (padded output) or of another type (fp32 logits)."""
    up = up[:, : y.shape[1]]
    if y.dtype == up.dtype:
        y.addmm_(down, up, alpha=scale)
    else:
        y.add_(torch.mm(down, up), alpha=scale)
