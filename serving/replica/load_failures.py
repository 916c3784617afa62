"""The adapters that an engine replica could not load: counted while they fail, and reported to the market, which looks
after their files and withdraws them where these are broken."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from specs.errors import AdapterUnavailable
from specs.market.catalogue import Entry

logger = logging.getLogger("ray.serve")

REPORT_AGAIN_S = 60.0
"""Seconds after which a version that still fails is reported again."""

Report = Callable[[Entry, str], Awaitable[object]]
"""Tells the market that a version could not be loaded, and why."""


class LoadFailures:
    """Notes which versions cannot be loaded."""

    def __init__(self, report: Report | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with none. `report` is called once for a version that begins to fail, and again while it fails; None
        where there is no market."""
        self._report = report
        self._clock = clock
        self._reasons: dict[str, str] = {}
        self._reported: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def watching(self, entry: Entry, hold: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Enters `hold`, and notes whether the adapter could be loaded.

        Raises:
            AdapterUnavailable: it could not.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(hold)
            except AdapterUnavailable as error:
                self._note(entry, str(error))
                raise
            self._reasons.pop(entry.engine_name, None)
            yield

    def count(self, served: Collection[str]) -> int:
        """Returns how many of the served versions could not be loaded when they were last needed; forgets the
        others."""
        for name in self._reasons.keys() - set(served):
            self._reasons.pop(name, None)  # a scrape asks from a thread of its own
            self._reported.pop(name, None)
        return len(self._reasons)

    def _note(self, entry: Entry, reason: str) -> None:
        self._reasons[entry.engine_name] = reason
        now = self._clock()
        last = self._reported.get(entry.engine_name)
        if self._report is None or (last is not None and now - last < REPORT_AGAIN_S):
            return
        self._reported[entry.engine_name] = now
        task = asyncio.create_task(self._tell(entry, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, entry: Entry, reason: str) -> None:
        assert self._report is not None
        try:
            await self._report(entry, reason)
        except Exception:
            logger.exception("the market was not told that %s could not be loaded", entry.engine_name)
