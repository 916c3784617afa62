"""Writes an adapter into its slot: only what differs is written, with all copies in one call.

vLLM 0.29 sets every module by itself (`BaseLayerWithLoRA.set_lora`): it clears the slot's A and B of each output slice
and copies the adapter's over them, also where both are empty. For the 135M base model that is 424 fills and 420 copies,
the tables of the vocabulary among them. Here each module remembers for each slot how many ranks hold weights, clears
only ranks that the new adapter leaves empty, and adds its copies to one list.

On CUDA the sources of an adapter that was brought to the device ahead of the step (`serving.engine.staging`) are views
of one buffer there, so the copies stay on the device. (That has not been run on CUDA.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.lora.layers import LogitsProcessorWithLoRA, MergedColumnParallelLinearWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

PLAIN_SETTERS = (
    BaseLinearLayerWithLoRA.set_lora,
    MergedColumnParallelLinearWithLoRA.set_lora,
    LogitsProcessorWithLoRA.set_lora,
)
"""vLLM's `set_lora` methods that copy A and B as they are. Others (embeddings, which are transposed; experts; layers
that split one adapter over slices) are left to vLLM."""

Halves = tuple[Sequence[Tensor | None], Sequence[Tensor | None]]
"""A and B of each output slice, None where the adapter does not fill it."""


class Copies(NamedTuple):
    """The writes for one adapter: tensors to clear, and targets with their sources."""

    zeros: list[Tensor]
    targets: list[Tensor]
    sources: list[Tensor]

    def run(self, *, non_blocking: bool) -> None:
        """Clears, then copies."""
        if self.zeros:
            torch._foreach_zero_(self.zeros)
        if self.targets:
            torch._foreach_copy_(self.targets, self.sources, non_blocking=non_blocking)


class SlotWriter:
    """Writes one module's stacks and remembers the content of each slot. Slots are taken to be empty at first, as vLLM
    makes them."""

    def __init__(self, module: Any, slots: int) -> None:
        self._module = module
        self.plain = type(module).set_lora in PLAIN_SETTERS and getattr(module, "tp_size", 1) == 1
        stacks_a = _listed(module.lora_a_stacked) if self.plain else ()
        stacks_b = _listed(module.lora_b_stacked) if self.plain else ()
        self.slices = len(stacks_b) or 1
        self._a = [[stack[slot, 0] for slot in range(slots)] for stack in stacks_a]
        self._b = [[stack[slot, 0] for slot in range(slots)] for stack in stacks_b]
        self._ranks = [[0] * self.slices for _ in range(slots)]

    def ranks(self, slot: int) -> tuple[int, ...]:
        """Returns how many ranks of each output slice hold weights in this slot; where vLLM sets the module, 1 for
        any."""
        return tuple(self._ranks[slot])

    def prepare(self, slot: int, weights: Any | None, copies: Copies) -> None:
        """Adds to `copies` the writes after which the slot holds these weights (vLLM's `LoRALayerWeights`; None empties
        it). The slot counts as holding them from now on, so `copies` must be run before the slot is used."""
        held = self._ranks[slot]
        halves = None if weights is None else self._halves(weights)
        if weights is not None and halves is None:
            self._module.set_lora(slot, weights.lora_a, weights.lora_b)
            self._ranks[slot] = [self._most()] * self.slices
            return
        if halves is None and not self.plain:
            if any(held):
                self._module.reset_lora(slot)
            self._ranks[slot] = [0] * self.slices
            return
        for i in range(self.slices):
            a, b = (None, None) if halves is None else (halves[0][i], halves[1][i])
            rank = 0 if a is None or b is None else b.shape[1]
            into_a, into_b = self._a[i][slot], self._b[i][slot]
            if rank < held[i]:
                copies.zeros.extend((into_a[rank : held[i]], into_b[:, rank : held[i]]))
            if rank:
                full = rank == into_b.shape[1]
                copies.targets.extend((into_a, into_b) if full else (into_a[:rank], into_b[:, :rank]))
                copies.sources.extend((a, b))
            held[i] = rank

    def distrust(self, slot: int) -> None:
        """Notes that a copy failed and the slot may hold anything, so that all of it is cleared before it is used
        again."""
        self._ranks[slot] = [self._most()] * self.slices

    def _most(self) -> int:
        return int(self._b[0][0].shape[1]) if self.plain else 1

    def _halves(self, weights: Any) -> Halves | None:
        """Returns A and B of each slice, None where they cannot be copied as they are."""
        if not self.plain:
            return None
        a, b = _listed(weights.lora_a), _listed(weights.lora_b)
        if len(a) != self.slices or len(b) != self.slices:
            return None
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            if one is None or other is None:
                continue
            if one.shape[1] != self._a[i][0].shape[1] or other.shape[0] != self._b[i][0].shape[0]:
                return None
        return a, b


def _listed(one_or_several: Any) -> Sequence[Any]:
    return one_or_several if isinstance(one_or_several, list | tuple) else [one_or_several]
