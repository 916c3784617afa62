"""Packs an adapter's tensors into one piece of memory, and copies them between devices in one piece."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 64
"""Alignment of each tensor in bytes: a cache line, and enough for every element type and copy engine."""


class PackedAdapter(NamedTuple):
    """A vLLM `LoRAModel` whose tensors are all views of `buffer`, (bytes,) uint8."""

    model: Any
    buffer: Tensor

    def on(self, buffer: Tensor) -> Any:
        """Returns the same adapter over `buffer`, a copy of this one's buffer on any device."""
        start = self.buffer.data_ptr()

        def there(tensor: Tensor, _: str) -> Tensor:
            begin = tensor.data_ptr() - start
            return torch.as_strided(
                buffer[begin : begin + tensor.nbytes].view(tensor.dtype), tensor.shape, tensor.stride()
            )

        moved = copy.copy(self.model)
        moved.loras = {name: copy.copy(weights) for name, weights in self.model.loras.items()}
        _replace(moved, there)
        return moved


def in_one_buffer(lora: Any, pin: bool, by_rank: bool = False) -> PackedAdapter:
    """Moves every tensor of a vLLM `LoRAModel` into one buffer.

    What safetensors reads are views of the mapped file: until they are copied nothing has been read, and the copy into
    a slot, in an engine's step, would wait for the disk. One buffer is one allocation to pin, one copy to a device, and
    one piece to free.

    Args:
        lora: the adapter; its tensors are replaced in place.
        pin: makes the buffer page-locked, for copies to a CUDA device. (That path has not been run on CUDA.)
        by_rank: stores each B as the CPU operators hold it (`serving.engine.operators`), R rows of outputs, so that it
            is copied in one piece.
    """
    tensors: dict[int, Tensor] = {}  # packed layers may share a half
    turned: set[int] = set()

    def note(tensor: Tensor, name: str) -> Tensor:
        if by_rank and name == "lora_b" and tensor.dim() == 2:
            turned.add(id(tensor))
        return tensors.setdefault(id(tensor), tensor)

    _replace(lora, note)
    buffer = torch.empty(sum(_padded(tensor.nbytes) for tensor in tensors.values()), dtype=torch.uint8, pin_memory=pin)
    moved: dict[int, Tensor] = {}
    start = 0
    for key, tensor in tensors.items():
        flat = buffer[start : start + tensor.nbytes].view(tensor.dtype)
        into = flat.view(tensor.shape[::-1]).t() if key in turned else flat.view(tensor.shape)
        moved[key] = into.copy_(tensor)
        start += _padded(tensor.nbytes)
    _replace(lora, lambda tensor, _: moved[id(tensor)])
    return PackedAdapter(lora, buffer)


def _replace(lora: Any, by: Callable[[Tensor, str], Tensor]) -> None:
    """Replaces each of the adapter's tensors by `by(tensor, name)`, where `name` is "lora_a" or "lora_b"."""
    for weights in lora.loras.values():
        for name in ("lora_a", "lora_b"):
            held = getattr(weights, name)
            if isinstance(held, Tensor):
                setattr(weights, name, by(held, name))
            elif held is not None:
                setattr(weights, name, [by(one, name) if isinstance(one, Tensor) else one for one in held])


def _padded(size: int) -> int:
    """Rounds a size in bytes up to `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT
