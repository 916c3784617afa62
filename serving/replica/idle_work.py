"""Work that a replica does of its own accord while its engine has time to spare, one job after the other.

A job begins only while no request waits, neither for its adapter nor for a place in the batch, at most half of the
batch's seats are taken, and not all adapter slots. It is given up, which ends what it has in the engine, as soon as a
request waits for a seat or a slot, or may have to: it is begun anew once, and dropped when that is given up too. Beside
that the engine itself lets requests pass what a job has given it (`serving.paging.scheduler`), at the next step.

Each try runs in a context of its own, inside which the gate sees idle work (`serving.paging.idle`) and no request: no
tenant, no record, no account, no span.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol

from serving.paging.idle import as_idle_work

logger = logging.getLogger("ray.serve")

LOOK_S = 0.05
"""Seconds between two looks at the engine while a job waits or runs: some steps of the engine. A request that is given
to it is noticed at once."""
PARKED = "parked"
"""Reason for which a request waits that wants no seat yet: its grammar is compiled."""
ADAPTER_S = 1.0
"""Seconds that a request may wait for its adapter before idle work gives way, whose own adapter may hold the place in
host memory: reading one takes less."""
LONGEST_S = 120.0
"""Seconds after which a job is ended: a long answer of a slow engine beside others takes about as long."""

DONE, FAILED, GIVEN_UP, PUT_BACK, DROPPED = "done", "failed", "given-up", "put-back", "dropped"
OUTCOMES = (DONE, FAILED, GIVEN_UP, PUT_BACK, DROPPED)
"""The ends of a job: it ended by itself; it failed or took too long; it was given up for requests twice; it was given
up for the first time, and waits once more; it was never begun, since too many wait."""

Job = Callable[[], Awaitable[None]]
Count = Callable[[str], object]
"""Called with each outcome of a job."""


class Engine(Protocol):
    """The engine as `serving.paging.gate.AdapterGate` knows it."""

    waiting: int
    entered: int
    idle: int

    @property
    def adapters(self) -> Mapping[str, int]:
        """Number of requests by the engine name of their adapter."""
        ...

    @property
    def residency(self) -> Any:
        """The newest reports (`serving.paging.residency.Residency`)."""
        ...


class Room:
    """Tells whether an engine has time to spare."""

    def __init__(self, engine: Engine, seats: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes one for an engine that runs `seats` requests at once."""
        self._engine, self._seats, self._clock = engine, seats, clock
        self._no_adapter_since: float | None = None

    def is_free(self) -> bool:
        """Returns whether idle work may begin: nothing waits, and half of the seats and a slot are free."""
        engine = self._engine
        if engine.waiting == 0:
            self._no_adapter_since = None
        # one request may take several
        taken = max(engine.entered, (engine.residency.scheduler or {}).get("running", 0))
        has_room = 2 * taken <= self._seats and not len(engine.adapters) >= engine.residency.slots > 0
        return has_room and engine.waiting == 0 and not self._waiting_in_engine()

    def is_wanted(self) -> bool:
        """Returns whether idle work has to give way: a request waits for a seat or a slot, or may have to, since there
        are more requests in the engine, or more adapters, than it has room for; or one waits long for its adapter."""
        engine = self._engine
        too_many = engine.entered + engine.idle > self._seats or len(engine.adapters) > engine.residency.slots > 0
        return too_many or self._waiting_in_engine() > 0 or self._waits_long_for_an_adapter()

    def _waits_long_for_an_adapter(self) -> bool:
        if not self._engine.waiting:
            self._no_adapter_since = None
            return False
        if self._no_adapter_since is None:
            self._no_adapter_since = self._clock()
        return self._clock() - self._no_adapter_since > ADAPTER_S

    def _waiting_in_engine(self) -> int:
        waiting = (self._engine.residency.scheduler or {}).get("waiting", {})
        return sum(count for reason, count in waiting.items() if reason != PARKED)


@dataclass(eq=False)
class _Waiting:
    job: Job
    count: Count
    tries: int = 0


class IdleWork:
    """The jobs of one replica. It belongs to one event loop."""

    def __init__(self, room: Room, most_waiting: int, longest_s: float = LONGEST_S) -> None:
        """Makes one without jobs, of which at most `most_waiting` wait; each may take `longest_s` seconds."""
        self._room, self._most, self._longest_s = room, most_waiting, longest_s
        self._waiting: deque[_Waiting] = deque()
        self._offered = asyncio.Event()
        self._trying: asyncio.Task[None] | None = None
        self._ending: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to do jobs, in the running event loop and in a context of its own, which each try gets a copy of."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def close(self) -> None:
        """Ends the job that runs, and forgets those that wait."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._waiting)

    def offer(self, job: Job, count: Count = lambda _: None) -> bool:
        """Takes a job, which is called for each try. Returns False, and drops it, when as many wait as may."""
        if len(self._waiting) >= self._most:
            count(DROPPED)
            return False
        self._waiting.append(_Waiting(job, count))
        self._offered.set()
        return True

    def withdraw(self, job: Job) -> None:
        """Takes a job back that waits; one that runs or has ended is left alone."""
        self._waiting = deque(one for one in self._waiting if one.job is not job)

    def look(self) -> None:
        """Gives the running job up if a request wants its place."""
        if self._trying is not None and self._room.is_wanted():
            self._end(self._trying, GIVEN_UP)

    def _end(self, trying: "asyncio.Task[None]", outcome: str) -> None:
        """Ends the running job, once: a second cancellation would cut what it does to leave the engine."""
        if self._ending is None:
            self._ending = outcome
            trying.cancel()

    def _was_given_up(self) -> bool:
        return self._ending == GIVEN_UP

    async def _run(self) -> None:
        while True:
            self._offered.clear()
            if not self._waiting:
                await self._offered.wait()
            while self._waiting and not self._room.is_free():  # noqa: ASYNC110 - what fills an engine is many things
                await asyncio.sleep(LOOK_S)
            if self._waiting:
                one = self._waiting.popleft()
                one.count(await self._outcome(one))

    async def _outcome(self, one: _Waiting) -> str:
        """Tries a job, and puts it back where it was given up for the first time."""
        one.tries += 1
        self._ending = None
        self._trying = asyncio.get_running_loop().create_task(_as_idle_work(one.job))
        until = time.monotonic() + self._longest_s
        try:
            while not (await asyncio.wait([self._trying], timeout=LOOK_S))[0]:
                self.look()
                if time.monotonic() > until:
                    self._end(self._trying, FAILED)
            error = None if self._trying.cancelled() else self._trying.exception()
            if not self._trying.cancelled() and error is None:
                return DONE
        finally:
            if self._ending is None:
                self._trying.cancel()
            await asyncio.wait([self._trying])  # what it has in the engine has left it
            self._trying = None
        if self._was_given_up():
            if one.tries > 1:
                return GIVEN_UP
            self._waiting.appendleft(one)
            return PUT_BACK
        logger.warning("idle work %s", "took too long" if error is None else f"failed: {error!r}")
        return FAILED


async def _as_idle_work(job: Job) -> None:
    with as_idle_work():
        await job()
