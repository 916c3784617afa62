"""Follows the market's published catalogue in a replica's event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from specs.market.catalogue import Catalogue, CatalogueWatch

logger = logging.getLogger("ray.serve")

SEQUENCE_HELP = "Number of the market's change that is in effect on this replica; 0 without a market."
"""Help text of the metric `learnware_market_sequence` of routers and engine replicas."""
POLL_S = 0.25
"""Seconds between two looks at the catalogue's file (one `stat`): a change is seen this much later at most."""


class Follower:
    """Calls `apply` with each new catalogue, one after the other; `sequence` is that of the last one applied."""

    def __init__(self, root: Path, apply: Callable[[Catalogue], Awaitable[None]], sequence: int) -> None:
        self._watch = CatalogueWatch(root)
        self._apply = apply
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        self.sequence = sequence

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
                catalogue = await asyncio.to_thread(self._watch.changed)
                if catalogue is not None and catalogue.sequence != self.sequence:
                    await self._apply(catalogue)
                    async with self._moved:
                        self.sequence = catalogue.sequence
                        self._moved.notify_all()
            except Exception:
                # The catalogue in effect stays in effect; the next change is tried anew.
                logger.exception("a change of the market could not be followed")
            await asyncio.sleep(POLL_S)
