"""Reads adapters into host memory before anybody asks for them, while the engine has nothing else to do.

A start registers adapters without reading them, so that it takes as long with 10,000 as with ten. The first request for
each would then wait for its adapter; so the first ones of the catalogue are read in the background, as many as host
memory holds without evicting any.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from serving.paging.gate import AdapterGate
from specs.adapter import WEIGHTS_FILE
from specs.errors import AdapterUnavailable

IDLE_POLL_S = 0.1
"""Seconds between two looks at whether the engine has nothing to do."""
FILLED_SHARE = 0.9
"""Share of the host memory for adapters that the warm-up fills: an adapter may be larger in memory than on disk."""

Hold = Callable[[str], AbstractAsyncContextManager[None]]
"""Makes a context manager that keeps the adapter of an engine name in host memory."""


class Adapter(Protocol):
    """The facts of a served adapter that the warm-up needs; vLLM's `LoRARequest` has them."""

    lora_name: str
    lora_path: str


class WarmUp:
    """The warm-up of one engine replica."""

    def __init__(self, gate: AdapterGate, hold: Hold, served: Callable[[], Iterable[Adapter]]) -> None:
        self._gate = gate
        self._hold = hold
        self._served = served
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begins with what is served now, in the running loop; one that is under way goes on with that."""
        self.end()
        self._task = asyncio.create_task(self._run())

    def end(self) -> None:
        """Ends it, if it is under way."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        for request in self._served():
            while self._gate.entered or self._gate.waiting:  # noqa: ASYNC110 - the gate has counts, no events
                await asyncio.sleep(IDLE_POLL_S)
            if request.lora_name in self._gate.residency.tiers:
                continue
            if not self._has_room(request):
                return
            try:
                async with self._hold(request.lora_name):
                    pass
            except AdapterUnavailable:
                continue  # `hold` has noted it

    def _has_room(self, request: Adapter) -> bool:
        report = self._gate.residency.worker
        if report is None:
            return False
        try:
            size = (Path(request.lora_path) / WEIGHTS_FILE).stat().st_size
        except OSError:
            size = 0  # the load will say what is wrong
        used = sum(report["host"].values())
        return bool(used + size <= FILLED_SHARE * report["host_budget"])
