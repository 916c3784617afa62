"""An adapter in one piece of memory."""

from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: a cache line, and what any type of element and any copy engine asks for."""


def in_one_buffer(lora: Any, pin: bool) -> int:
    """Moves every tensor of a vLLM `LoRAModel` into one buffer; returns its bytes.

    What safetensors reads are views of the mapped file: until they are copied nothing has been read, and the copy into
    a slot, in an engine's step, would wait for the disk. One buffer is one allocation to pin, and one piece to free.

    `pin`: page-locked, for copies to a CUDA device. (That path has not been run on CUDA.)
    """
    places: list[tuple[Any, str, int | None, Tensor]] = []
    for weights in lora.loras.values():
        for name in ("lora_a", "lora_b"):
            held = getattr(weights, name)
            if isinstance(held, Tensor):
                places.append((weights, name, None, held))
            elif held is not None:
                places += [(weights, name, i, one) for i, one in enumerate(held) if isinstance(one, Tensor)]
    size = sum(_padded(tensor.nbytes) for *_, tensor in places)
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
    copied: dict[int, Tensor] = {}  # packed layers may share a half
    start = 0
    for weights, name, i, tensor in places:
        copy = copied.get(id(tensor))
        if copy is None:
            copy = buffer[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copy.copy_(tensor)
            copied[id(tensor)] = copy
            start += _padded(tensor.nbytes)
        if i is None:
            setattr(weights, name, copy)
        else:
            held = getattr(weights, name)
            setattr(weights, name, [copy if other == i else one for other, one in enumerate(held)])
    return size


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
