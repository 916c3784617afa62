"""Passes records from routers and engine replicas on to the application that keeps them, and comparisons of two models.

A half of a record is put into a bounded buffer, which costs a request some microseconds, and every half second what has
gathered goes to the application in one call. What the application cannot take waits, and what does not fit the buffer,
or the store, is dropped and counted (`learnware_decisions_dropped_total`): no request waits or fails for its record.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from serving.names import DECISIONS, DECISIONS_APPLICATION

logger = logging.getLogger("ray.serve")

BUFFER = 8192
"""The most halves that wait, about 2 kB each: four seconds of 2,000 requests a second."""
BATCH = 256
"""The most halves of one call, some 500 kB."""
TEXT_BATCH = 16
"""The most halves of one call where they hold prompts and answers: two texts of twice `TEXT_CHARS` characters,
about 65 kB together in ASCII."""
PERIOD_S = 0.5
"""Seconds between two calls."""
SEND_S = 5.0
"""Seconds that one call may take; the application that starts anew takes some seconds."""
COMPARISONS = 128
"""The most comparisons that wait, each of a prompt and two answers, of twice `TEXT_CHARS` characters at most: 12 MB."""
SAY_EVERY_S = 60.0
"""Seconds between two lines of the log about records that do not get through."""

Send = Callable[[bytes], Awaitable[int]]
"""Sends halves as JSON lines; returns how many of them could not be kept."""


class Recorder:
    """A bounded buffer of halves (`router.decision_record.DecisionRecorder`). It belongs to one event loop."""

    def __init__(
        self,
        send: Send,
        registry: CollectorRegistry,
        *,
        vectors: bool,
        prompts: bool,
        size: int = BUFFER,
        period_s: float = PERIOD_S,
    ) -> None:
        """Makes an empty buffer of `size` halves with its metrics in the registry; `vectors` and `prompts` say what
        records keep."""
        self.vectors, self.prompts = vectors, prompts
        self._send, self._size, self._period_s = send, size, period_s
        self._batch = TEXT_BATCH if prompts else BATCH
        self._parts: deque[Mapping[str, Any]] = deque()
        self._comparisons: deque[Mapping[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._said = float("-inf")
        self._dropped = Counter(
            "learnware_decisions_dropped",
            "Records, or halves of them, that the log of decisions lacks because it could not take them.",
            registry=registry,
        )

    def start(self) -> None:
        """Begins to pass on what is added, in the running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def add(self, part: Mapping[str, Any]) -> None:
        """Takes one half; a full buffer drops it."""
        if len(self._parts) >= self._size:
            self._dropped.inc()
        else:
            self._parts.append(part)

    def compared(self, part: Mapping[str, Any]) -> bool:
        """Takes what two models said to one request (`serving.replica.shadowing`), which goes where halves go. Returns
        False, and drops it, when many wait."""
        if len(self._comparisons) >= COMPARISONS:
            return False
        self._comparisons.append(part)
        return True

    async def flush(self) -> bool:
        """Sends all that waits. Returns False when the application does not take it; it goes on waiting then."""
        return await self._flush(self._parts, self._batch) and await self._flush(self._comparisons, TEXT_BATCH)

    async def _flush(self, parts: deque[Mapping[str, Any]], most: int) -> bool:
        while parts:
            batch = [parts.popleft() for _ in range(min(most, len(parts)))]
            try:
                content = await asyncio.to_thread(_encoded, batch)
                lost = await asyncio.wait_for(self._send(content), SEND_S)
            except asyncio.CancelledError:
                self._give_back(parts, batch)  # what may have come through all the same is stored once
                raise
            except Exception as error:  # noqa: BLE001 (whatever it is, no request may notice)
                self._give_back(parts, batch)
                self._say("the application that keeps them does not take them: %r", error)
                return False
            if lost:
                self._dropped.inc(lost)
                self._say("%d could not be stored; the log of the application `decisions` says why", lost)
        return True

    async def close(self) -> None:
        """Sends what waits, once, and ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            await self.flush()

    def _give_back(self, parts: deque[Mapping[str, Any]], batch: Sequence[Mapping[str, Any]]) -> None:
        room = max((self._size if parts is self._parts else COMPARISONS) - len(parts), 0)
        self._dropped.inc(max(len(batch) - room, 0))
        parts.extendleft(reversed(batch[:room]))

    def _say(self, what: str, detail: object) -> None:
        if time.monotonic() - self._said >= SAY_EVERY_S:
            self._said = time.monotonic()
            logger.warning("records of decisions: " + what, detail)  # noqa: G003 (one of two constant texts)


def application_recorder(registry: CollectorRegistry, *, vectors: bool, prompts: bool) -> Recorder:
    """Makes the recorder of a router or an engine replica, which sends to the application `decisions`."""
    return Recorder(_ToApplication(), registry, vectors=vectors, prompts=prompts)


def recorder_factory(*, vectors: bool, prompts: bool) -> Callable[[CollectorRegistry], Recorder]:
    """Returns `application_recorder` with these settings; it can be pickled."""
    return partial(application_recorder, vectors=vectors, prompts=prompts)


class _ToApplication:
    """Sends to the application, whose handle is made when it is first needed: Serve deploys applications in any
    order."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def __call__(self, content: bytes) -> int:
        if self._handle is None:
            from ray import serve

            # in a thread: it asks Serve's controller and waits for the answer
            self._handle = await asyncio.to_thread(
                serve.get_deployment_handle, DECISIONS, app_name=DECISIONS_APPLICATION
            )
        lost: int = await self._handle.add.remote(content)
        return lost


def _encoded(batch: Sequence[Mapping[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(part, separators=(",", ":")).encode() for part in batch)
