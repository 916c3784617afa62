"""Follows the market's evidence in a router replica's event loop, as `specs.market.follower` follows its catalogue."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from specs.evidence import Evidence
from specs.evidence_store import FOLDER, EvidenceStore

logger = logging.getLogger("ray.serve")

POLL_S = 1.0
"""Seconds between two looks at the folder: evidence comes about once a minute."""


class EvidenceFollower:
    """Hands each new version of the evidence to `teach`, in a thread. One that cannot be read or applied is passed over
    with the reason in the log; the last good one stays in effect."""

    def __init__(self, market: Path, teach: Callable[[Evidence], object]) -> None:
        self._store = EvidenceStore(market / FOLDER)
        self._teach = teach
        self._task: asyncio.Task[None] | None = None
        self.number = 0
        """Number of the version that was looked at last; 0 before the first."""

    def start(self) -> None:
        """Follows the evidence from now on, in the running loop. Calling it twice is harmless."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    def look(self) -> None:
        """Applies the newest version if it is another one than at the last look."""
        newest = max(self._store.numbers(), default=0)
        if newest == self.number:
            return
        self.number = newest
        evidence = self._store.read(newest) if newest else None
        if evidence is not None:
            self._teach(evidence)

    async def _follow(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.look)
            except Exception:
                logger.exception("evidence number %d cannot be used; the one before stays in effect", self.number)
            await asyncio.sleep(POLL_S)
