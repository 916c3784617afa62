"""Takes an upload from its file to a served learnware: checked, tried on an engine, measured, activated."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from serving.applications.market_record import off_task
from serving.applications.upload_events import Note, no_note
from serving.applications.upload_line import UploadLine, entered_in_thread, in_thread
from specs.adapter import adapter_hash
from specs.capability import Capability, capability_of
from specs.errors import InvalidInput, InvalidLearnware, MarketBusy
from specs.learnware import SPECIFICATION_FOLDER
from specs.market.journal import Record
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import PROTOCOL, Trial

BUSY_TRIES = 15
"""Tries of a change whose trial has taken minutes while the command line holds the market's lock."""

Probe = Callable[[Staged], Coroutine[Any, Any, Trial]]
"""Tries a staged learnware on an engine and returns the result."""


class MarketThreads:
    """Threads for each kind of work, so that none waits for another kind: reading, quick changes, taking an upload in,
    writing bodies, and looking after the catalogue."""

    def __init__(self) -> None:
        self.reading = ThreadPoolExecutor(4, "market-read")
        self.changing = ThreadPoolExecutor(2, "market-change")
        self.taking = ThreadPoolExecutor(1, "market-take")
        self.writing = ThreadPoolExecutor(2, "market-write")
        self.keeping = ThreadPoolExecutor(1, "market-keep")


class Destination(NamedTuple):
    """The place in the market that an upload is for: a new learnware's, that of the learnware `replaced`, or beside
    that, as a canary with this share of its requests."""

    replaced: str | None = None
    share: float | None = None


class Intake:
    """Takes uploads, one at a time (`line`)."""

    def __init__(
        self, market: Market, threads: MarketThreads, probe: Probe, give_up: Callable[[], object] = lambda: None
    ) -> None:
        self._market = market
        self._threads = threads
        self._probe = probe
        self._give_up = give_up
        self.line = UploadLine()

    async def take(self, source: Path, destination: Destination, note: Note = no_note) -> Record:
        """Checks, tries and activates the zip at `source`. Cancelled, it leaves nothing behind; but an activation that
        has begun is made. Calls `note` after each stage.

        Raises:
            InvalidInput: the zip holds another learnware than the destination's.
            InvalidLearnware: it is refused, and in quarantine now.
            MarketFull: its turn did not come.
        """
        pool = self._threads.taking
        replaced, share = destination
        async with self.line.turn():
            staging = self._market.stage(source, recorded_as=replaced)
            async with entered_in_thread(pool, staging, self._give_up) as staged:
                if replaced not in (None, staged.learnware.id):
                    raise InvalidInput(
                        f"The zip holds learnware {staged.learnware.id!r}, but {replaced!r} is to be replaced."
                    )
                check = self._market.check_acceptable
                await in_thread(pool, partial(check, staged, replace=replaced is not None, canary=share is not None))
                note("checked", {"id": staged.learnware.id, "version": staged.card.version})
                trial = await self._probe(staged)
                if trial.refusal is not None:
                    await in_thread(pool, partial(self._market.refuse, staged, trial.refusal))
                    raise InvalidLearnware(f"learnware {staged.learnware.id}: {trial.refusal}")
                note("tried", {"notes": list(trial.notes)})
                tried, capability = await in_thread(pool, partial(self._measured, staged, trial), self._give_up)
                note("measured", {"off_task": off_task(capability)})
                return await self._activated(tried, destination)

    def _measured(self, staged: Staged, trial: Trial) -> tuple[Staged, Capability]:
        capability = measured(staged, trial)
        tried = self._market.with_capability(staged, capability)
        return tried._replace(notes=(*staged.notes, *trial.notes)), capability

    async def _activated(self, tried: Staged, destination: Destination) -> Record:
        change = self._market.submit if destination.replaced is None else self._market.replace
        if destination.share is not None:
            change = partial(self._market.submit_canary, share=destination.share)
        for left in reversed(range(BUSY_TRIES)):
            try:
                return await in_thread(self._threads.taking, partial(change, tried))
            except MarketBusy:
                if not left:
                    raise
                await asyncio.sleep(0)
        raise AssertionError


def measured(staged: Staged, trial: Trial) -> Capability:
    """Returns the capability of a tried learnware: of its own tasks what it came with, off them what was measured here.
    What a submission says of itself off its task does not count, measured here or not."""
    place = staged.folder / SPECIFICATION_FOLDER
    own = capability_of(place, staged.learnware.base_model, adapter_hash(staged.folder))
    return replace(own, elsewhere=trial.elsewhere, elsewhere_protocol=PROTOCOL if trial.elsewhere else "")
