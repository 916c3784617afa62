"""Copies adapters to a CUDA device ahead of the step that needs them.

The scheduler knows which adapters will be loaded next (`AdapterQueue.upcoming`) and says so with each step. Their
buffers (`serving.paging.buffer`), each one piece of page-locked memory, are copied on a stream of its own while that
step computes. When a step needs one, its stream waits for that copy alone, and the adapter is spread over its slot by
copies on the device.

On CPU there is nothing to copy ahead, because host memory is the device's. The CUDA path has not been run; its
bookkeeping is tested on CPU.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from serving.paging.buffer import PackedAdapter

ROOM = 4
"""Number of adapters that are staged at once: twice as many as a step announces, so that one step's newcomers do not
push out the next one's. At rank 16 over all linear layers of an 8B model each takes 84 MB of the device."""


class _Staged(NamedTuple):
    model: Any
    copied: Any
    """The CUDA event after the copy; None on a device without streams."""
    buffer: Tensor


class Staging:
    """Copies of adapters' buffers on a device, by adapter number; the oldest is dropped when there is no room."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ahead = device.type == "cuda"
        """True on CUDA; elsewhere there is nothing to copy ahead, and `start` does nothing."""
        self._stream = torch.cuda.Stream(device) if self.ahead else None
        self._staged: OrderedDict[int, _Staged] = OrderedDict()

    def __contains__(self, number: object) -> bool:
        return number in self._staged

    def start(self, adapters: Iterable[tuple[int, PackedAdapter]]) -> None:
        """Starts the copies of the adapters that are not staged yet, and returns at once."""
        for number, packed in adapters:
            if not self.ahead or number in self._staged:
                continue
            if len(self._staged) >= ROOM:
                self._staged.popitem(last=False)
            self._staged[number] = self._copy(packed)

    def take(self, number: int) -> Any | None:
        """Returns the adapter with its tensors on the device, ready for the current stream; None when it was not
        staged."""
        staged = self._staged.pop(number, None)
        if staged is None:
            return None
        if staged.copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(staged.copied)
            staged.buffer.record_stream(stream)  # its memory is not used again before this stream has read it
        return staged.model

    def forget(self, number: int) -> None:
        """Drops an adapter that was removed."""
        self._staged.pop(number, None)

    def _copy(self, packed: PackedAdapter) -> _Staged:
        with torch.cuda.stream(self._stream):  # without a stream this does nothing
            buffer = packed.buffer.to(self.device, non_blocking=True, copy=True)
            copied = None if self._stream is None else self._stream.record_event()
        return _Staged(packed.on(buffer), copied, buffer)
