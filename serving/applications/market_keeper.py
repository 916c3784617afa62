"""Keeps the market in order while it is served: publishes what could not be published, and repairs what can be."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from specs.errors import LearnwareError

logger = logging.getLogger("ray.serve")

LOOK_S = 5.0
"""Seconds between two looks while everything is in order. A look reads one number of the journal and asks for the
catalogue's times; it sees what the command line changed and could not publish, and a catalogue that was harmed."""
RETRY_S = 0.5
"""Seconds until the first try after a failure; doubled each time up to `LONGEST_RETRY_S`."""
LONGEST_RETRY_S = 30.0
"""Longest time in seconds between two tries: room that somebody makes on the disk is used this much later at most."""


class MarketKeeper:
    """Calls `reconcile` (`specs.market.store.Market.reconcile`, in a thread) again and again."""

    def __init__(self, reconcile: Callable[[], Awaitable[bool]]) -> None:
        self._reconcile = reconcile
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.fault: str | None = None
        """Reason why the last look failed; None when it did not."""

    def start(self) -> None:
        """Begins, in the running loop. Calling it twice is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep())

    def wake(self) -> None:
        """Makes the next look come soon, as after a change that could not be published."""
        self._wake.set()

    async def _keep(self) -> None:
        wait_s = RETRY_S
        while True:
            if await self._look():
                wait_s, pause = RETRY_S, LOOK_S
            else:
                wait_s, pause = min(2 * wait_s, LONGEST_RETRY_S), wait_s
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
                await asyncio.sleep(RETRY_S)  # whatever failed a moment ago fails again at once
            except TimeoutError:
                pass
            self._wake.clear()

    async def _look(self) -> bool:
        try:
            published = await self._reconcile()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look comes
            fault = str(error) if isinstance(error, LearnwareError) else f"{type(error).__name__}: {error}"
            if fault != self.fault:
                logger.error("the market cannot be looked after: %s", fault)
            self.fault = fault
            return False
        self.fault = None
        return published
