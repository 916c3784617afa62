"""Follows the market's published catalogue in a replica's event loop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from specs.market.catalogue import Catalogue, CatalogueWatch

logger = logging.getLogger("ray.serve")

SEQUENCE_HELP = "Number of the market's change that is in effect on this replica; 0 without a market."
"""Help text of the metric `learnware_market_sequence` of routers and engine replicas."""
POLL_S = 0.25
"""Seconds between two looks at the catalogue's file (one `stat`): a change is seen this much later at most."""


FAULT_HELP = (
    "1 while the market's published catalogue cannot be read or followed here, so that its last good state is served."
)
"""Help text of the metric `learnware_market_catalogue_fault` of routers and engine replicas."""
RETRY_S = 1.0
"""Seconds after which a catalogue that could not be applied is tried again; doubled each time up to `LONGEST_RETRY_S`,
so that a broken one does not keep the event loop and the log busy."""
LONGEST_RETRY_S = 60.0
"""Longest time in seconds between two tries."""


class Follower:
    """Calls `apply` with each new catalogue, one after the other; `sequence` is that of the last one applied. While a
    catalogue cannot be read or applied the last good one stays in effect, and `fault` says why."""

    def __init__(self, root: Path, apply: Callable[[Catalogue], Awaitable[None]], sequence: int) -> None:
        self._watch = CatalogueWatch(root)
        self._apply = apply
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        self._pending: Catalogue | None = None
        self._again = 0.0
        self._wait_s = RETRY_S
        self.sequence = sequence
        self.fault: str | None = None
        """Reason why the published catalogue is not followed; None while it is."""
        self.faults = 0
        """Number of times that following it has failed, each fault counted once."""

    def start(self) -> None:
        """Follows the catalogue from now on, in the running loop. Calling it twice is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def reached(self, sequence: int) -> int:
        """Waits until a catalogue of at least this sequence is in effect, and returns the sequence that is."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.sequence >= sequence)
        return self.sequence

    async def _follow(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:
                # The catalogue in effect stays in effect; this one is tried again, and so is the next change.
                if self.fault is None:
                    logger.exception("a change of the market could not be followed")
                self._note(f"{type(error).__name__}: {error}")
                self._again = time.monotonic() + self._wait_s
                self._wait_s = min(2 * self._wait_s, LONGEST_RETRY_S)
            await asyncio.sleep(POLL_S)

    async def _look(self) -> None:
        found = await asyncio.to_thread(self._watch.changed)
        if found is not None:
            self._pending, self._again, self._wait_s = found, 0.0, RETRY_S
        catalogue = self._pending
        if catalogue is not None and time.monotonic() >= self._again:
            if catalogue.sequence != self.sequence:
                await self._apply(catalogue)
                async with self._moved:
                    self.sequence = catalogue.sequence
                    self._moved.notify_all()
            self._pending = None
        if self._pending is None:
            if self._watch.fault is not None and self._watch.fault != self.fault:
                logger.error("%s; change %d stays in effect", self._watch.fault, self.sequence)
            self._note(self._watch.fault)

    def _note(self, fault: str | None) -> None:
        self.faults += fault is not None and fault != self.fault
        self.fault = fault
