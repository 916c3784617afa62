"""Has right answers that came as feedback scored by an engine, on its idle time, and keeps what that says beside them.

Only where feedback teaches (`feedback.learn`) and prompts are kept (`decisions.prompts`). One answer is scored after
the other, under one model after the other. What an engine has no time for is asked again later, at most `TRIES` times.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from ray import serve

from serving.decisions.open_record import TEXT_CHARS
from serving.feedback.right_answers import Question, measured, question
from serving.names import APPLICATION, ENGINE

logger = logging.getLogger("ray.serve")

EVERY_S = 5.0
"""Seconds between two looks for right answers."""
TRIES = 60
"""Rounds in which an answer is tried before it is given up until the next start."""
MOST_WAITING = 256
"""The most answers that wait to be scored; further ones are passed over until the next start."""
ANSWER_S = 30.0
"""Seconds after which a replica is not waited for: longer than it waits for idle time."""

Score = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
"""Asks a replica (`serving.replica.own_work.OwnWork.likelihood`); None: it has no time now."""


class Store(Protocol):
    """The store of decisions (`serving.decisions.store.DecisionStore`)."""

    def feedback_rows(self, after: int = 0) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Yields pieces of feedback with their records."""
        ...

    def note_measured(self, seq: int, found: Mapping[str, Any]) -> bool:
        """Keeps what an answer's scores say."""
        ...


class _Waiting(NamedTuple):
    seq: int
    asked: Question
    scores: dict[str | None, Mapping[str, Any]]
    tries: int = 0


class RightAnswers:
    """Scores right answers, in the order in which they came."""

    def __init__(self, store: Store, score: Score) -> None:
        self._store, self._score = store, score
        self._after = 0
        self._waiting: deque[_Waiting] = deque()

    async def run(self) -> None:
        """Looks and scores until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.round()
            except Exception:
                logger.exception("right answers could not be scored")

    async def round(self) -> None:
        """Looks for answers that came, and scores each that waits, as far as there is time. What cannot be scored is
        tried again, `TRIES` times in all: where there was no time first of all, after an error last."""
        await asyncio.to_thread(self._look)
        while self._waiting:
            one = self._waiting.popleft()
            again = one._replace(tries=one.tries + 1) if one.tries + 1 < TRIES else None
            try:
                is_scored = await self._scored(one)
            except Exception:
                if again is not None:
                    self._waiting.append(again)
                raise
            if not is_scored:
                if again is not None:
                    self._waiting.appendleft(again)
                return  # there is no time for the others either

    def _look(self) -> None:
        for record, piece in self._store.feedback_rows(self._after):
            self._after = max(self._after, int(piece["seq"]))
            asked = question(record, piece, TEXT_CHARS)
            if asked is not None and len(self._waiting) < MOST_WAITING:
                self._waiting.append(_Waiting(int(piece["seq"]), asked, {}))

    async def _scored(self, one: _Waiting) -> bool:
        """Scores an answer under all models that it was not scored under; returns False where there is no time."""
        for name in (None, *one.asked.learnwares):
            if name in one.scores:
                continue
            answer = await self._score(one.asked.asked(name))
            if answer is None:
                return False
            one.scores[name] = answer
        scores = {name: score for name, score in one.scores.items() if "answers" in score}
        if None in scores and len(scores) > 1:
            await asyncio.to_thread(self._store.note_measured, one.seq, measured(one.asked, scores))
        return True


async def ask_an_engine(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Asks any engine replica for the scores of answers under one model; None where none answers in time."""
    try:
        # in a thread: it asks Serve's controller and waits for the answer
        handle = await asyncio.to_thread(serve.get_deployment_handle, ENGINE, app_name=APPLICATION)
        found: Mapping[str, Any] | None = await asyncio.wait_for(handle.likelihood.remote(dict(asked)), ANSWER_S)
    except Exception as error:  # noqa: BLE001 (replicas come and go)
        logger.warning("no engine scored a right answer: %r", error)
        return None
    return found
