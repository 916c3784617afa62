"""Takes comparisons of two answers, has them judged, and keeps the verdicts.

No request waits for it. Comparisons wait for the judge in memory, a bounded number of them; a judge that is down is
asked again after pauses, meanwhile new ones are counted as failed. Texts are in memory alone, the newest ones, so that
a right answer that comes as feedback can be compared; longer where prompts are kept.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from serving.evaluation.comparison import Comparison, read_comparison, settled
from serving.evaluation.evidence import Request
from serving.evaluation.judge import JudgeUnavailable, NoVerdict
from serving.evaluation.reference import verdict
from specs.errors import DecisionsUnavailable, InvalidInput

logger = logging.getLogger("ray.serve")

QUEUE = 256
"""The most comparisons that wait for the judge, at most some 100 kB each."""
RECENT = 256
"""The newest comparisons whose texts are in memory, at most some 100 kB each."""
AT_A_TIME = 4
"""Comparisons that the judge is asked about at a time."""
PAUSES_S = (2.0, 10.0, 60.0)
"""Seconds between the times that a judge is asked which cannot be reached."""

WAITING, JUDGED, FAILED, UNASKED = "waiting", "judged", "failed", "unasked"
"""States of a comparison, as `serving.decisions.comparisons` keeps them."""

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function in the thread that writes the file."""


class Asked(Protocol):
    """Says which of two answers is better (`serving.evaluation.judge.Judge`)."""

    async def compare(self, prompt: str, first: str, second: str) -> float:
        """Returns 1.0 where the second is, -1.0 where the first is, else 0.0."""


class Table(Protocol):
    """Keeps comparisons and their verdicts (`serving.decisions.comparisons.Comparisons`)."""

    def add(self, row: Mapping[str, Any], text: Mapping[str, Any] | None) -> int | None:
        """Adds a comparison and returns its number; None where it is not new."""

    def judged(self, seq: int, state: str, verdict: float | None) -> None:
        """Notes how the judge ended."""

    def referenced(self, tenant: str, request_id: str, verdict: float) -> None:
        """Notes what the right answer says."""

    def give_up_waiting(self) -> None:
        """Notes that what waited before this process is lost."""

    def texts(self, tenant: str, request_id: str) -> dict[str, Any] | None:
        """Returns the kept texts of a comparison."""

    def right_answer(self, tenant: str, request_id: str) -> str | None:
        """Returns the right answer that feedback gave."""


class Evaluator:
    """Takes comparisons. It belongs to one event loop."""

    def __init__(self, table: Table, judge: Asked | None, run: Run, pauses_s: Sequence[float] = PAUSES_S) -> None:
        """`run` runs what reads or writes the table; the judge is asked again after each of `pauses_s` seconds."""
        self._table, self._judge, self._run, self._pauses_s = table, judge, run, tuple(pauses_s)
        self._queue: asyncio.Queue[tuple[int, Comparison]] = asyncio.Queue(QUEUE)
        self._recent: OrderedDict[Request, Comparison] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to have comparisons judged, in the running event loop."""
        if self._judge is not None and not self._tasks:
            self._tasks = [asyncio.create_task(self._work(self._judge)) for _ in range(AT_A_TIME)]

    async def close(self) -> None:
        """Ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def take(self, part: Mapping[str, Any]) -> bool:
        """Takes a comparison as an engine replica sends it; returns False where it is none. What needs no judge is
        settled at once, if there is a judge: alone it would tell that two models say the same whenever they do."""
        try:
            one = read_comparison(part)
        except InvalidInput as error:
            logger.warning("%s", error)
            return False
        outcome = settled(one.first, one.second)
        state, judged = UNASKED, None
        if self._judge is not None:
            state, judged = (WAITING, None) if outcome is None else (JUDGED, outcome)
            if state == WAITING and self._queue.full():
                state = FAILED
        seq = await self._run(lambda: self._table.add(_row(one, state, judged), _texts(one)))
        if seq is None:  # it is there already, or cannot be kept
            return True
        if state == WAITING:
            try:
                self._queue.put_nowait((seq, one))
            except asyncio.QueueFull:  # others came while this one was written
                await self._run(lambda: self._table.judged(seq, FAILED, None))
        self._recent[one.tenant, one.id] = one
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        with suppress(DecisionsUnavailable):
            right = await self._run(lambda: self._table.right_answer(one.tenant, one.id))
            if right is not None:
                await self.reference(one.tenant, one.id, right)
        return True

    async def reference(self, tenant: str, request_id: str, right: str) -> None:
        """Compares both answers to a request with the right one, where they are still known."""
        one = self._recent.get((tenant, request_id))
        if one is None:
            kept = await self._run(lambda: self._table.texts(tenant, request_id))
            if kept is None:
                return
            first, second = kept["answers"]
            found = verdict(first, second, right)
        elif one.first.failed or one.second.failed:
            found = float(one.first.failed) - float(one.second.failed)
        else:
            found = verdict(one.first.answer, one.second.answer, right)
        await self._run(lambda: self._table.referenced(tenant, request_id, found))

    async def _work(self, judge: Asked) -> None:
        while True:
            seq, one = await self._queue.get()
            try:
                state, found = await self._asked(judge, one)
                await self._run(partial(self._table.judged, seq, state, found))
            except Exception:
                logger.exception("a comparison could not be judged")

    async def _asked(self, judge: Asked, one: Comparison) -> tuple[str, float | None]:
        for pause in (*self._pauses_s, None):
            try:
                return JUDGED, await judge.compare(one.prompt, one.first.answer, one.second.answer)
            except NoVerdict as error:
                logger.warning("a comparison has no verdict: %s", error)
                break
            except JudgeUnavailable as error:
                logger.warning("%s", error)
                if pause is None:
                    break
                await asyncio.sleep(pause)
        return FAILED, None


def _row(one: Comparison, state: str, judged: float | None) -> dict[str, Any]:
    return {
        "tenant": one.tenant,
        "id": one.id,
        "time": one.time,
        "kind": one.kind,
        "first": one.first.learnware,
        "first_version": one.first.version,
        "second": one.second.learnware,
        "second_version": one.second.version,
        "first_tokens": one.first.tokens,
        "second_tokens": one.second.tokens,
        "first_seconds": one.first.seconds,
        "second_seconds": one.second.seconds,
        "state": state,
        "judge": judged,
        "reference": None,
    }


def _texts(one: Comparison) -> dict[str, Any]:
    return {"prompt": one.prompt, "answers": [one.first.answer, one.second.answer]}
