"""Simulates one engine, for `benchmarks.simulate`. Waiting queue, slot table and host cache are the code that serves;
time is simulated by a cost model.

As in vLLM: a step gives each running request its next token, or the next part of its prompt, within a budget of
tokens; then requests are taken from the queue while there are seats, tokens of the budget and room for keys and values.
A request reserves its whole length when it is admitted, so none is ever taken back. An adapter is read from disk into
host memory by one thread beside the steps, and its requests join the queue when it is there.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.simulate.costs import Costs, Work
from benchmarks.simulate.job import Job
from router.placement import DEVICE, HOST
from serving.paging.host import HostCache
from serving.paging.queue import AdapterQueue, Running
from serving.paging.slots import SlotTable

# -- policies


class Waiting(Protocol):
    """A waiting queue as the engine uses it."""

    def add(self, job: Job, now: float) -> None: ...

    def begin(self, now: float, running: Sequence[Job], residents: Iterable[int]) -> None: ...

    def peek(self) -> Job | None: ...

    def pop(self) -> Job: ...

    def __len__(self) -> int: ...


class Slots(Protocol):
    """A slot table: it holds the resident adapters and says which of a batch's have to be loaded."""

    loads: int

    @property
    def residents(self) -> Sequence[int]: ...

    def use(self, batch: Iterable[int]) -> Sequence[int]: ...


class OurQueue:
    """The waiting queue that serves (`serving.paging.queue`), for simulated requests."""

    def __init__(self, slots: int, patience: float = 0.5) -> None:
        self._queue: AdapterQueue[Job] = AdapterQueue(slots, patience)
        self._running: list[Job] = []

    def add(self, job: Job, now: float) -> None:
        self._queue.add(job, job.adapter, now)

    def begin(self, now: float, running: Sequence[Job], residents: Iterable[int]) -> None:
        for job in self._running:
            if job.finished >= 0:
                self._queue.finished(job)
        self._running = [job for job in self._running if job.finished < 0]
        left: dict[int, int] = {}
        for job in running:
            if job.adapter is not None:
                left[job.adapter] = max(left.get(job.adapter, 0), job.output - job.decoded)
        self._queue.begin_step(now, [Running(*one) for one in left.items()], residents)

    def peek(self) -> Job | None:
        return self._queue.peek()

    def pop(self) -> Job:
        job = self._queue.pop()
        self._running.append(job)
        return job

    def __len__(self) -> int:
        return len(self._queue)


# -- one engine


@dataclass(frozen=True)
class Shape:
    """The sizes of an engine: adapter slots, requests in a batch, tokens of a step, tokens whose keys and values fit,
    host memory for adapters and the bytes of one."""

    slots: int
    seats: int
    step_tokens: int
    kv_tokens: int
    host_bytes: int
    adapter_bytes: int


@dataclass
class Totals:
    """Sums since the start: steps, their work, adapters needed (not in a slot when a batch came), loaded, read from
    disk, and the seconds of all steps."""

    steps: int = 0
    decoded: int = 0
    prefilled: int = 0
    adapters: int = 0
    needed: int = 0
    loads: int = 0
    reads: int = 0
    busy: float = 0.0


class Engine:
    """A simulated engine. `step` and `read_next` return how long they take; the owner of the clock calls `step_done`
    and `read_done` then."""

    def __init__(self, shape: Shape, costs: Costs, queue: Waiting | None = None, slots: Slots | None = None) -> None:
        self.shape = shape
        self._costs = costs
        self.queue = queue if queue is not None else OurQueue(shape.slots)
        self.slots: Slots = slots if slots is not None else SlotTable(shape.slots)
        self.host: HostCache[int, None] = HostCache(shape.host_bytes)
        self.running: list[Job] = []
        self.totals = Totals()
        self._reserved = 0
        self._to_read: deque[int] = deque()
        self._wait_for_read: dict[int, list[Job]] = {}
        self._scheduled: list[tuple[Job, int]] = []

    @property
    def load(self) -> int:
        """Returns the number of requests in the engine, in whatever state."""
        return len(self.running) + len(self.queue) + sum(map(len, self._wait_for_read.values()))

    def tiers(self) -> dict[str, str]:
        """Returns the tier of each adapter, as a replica reports it."""
        tiers = {str(adapter): HOST for adapter in self.host.sizes()}
        return tiers | {str(adapter): DEVICE for adapter in self.slots.residents}

    def hold(self, adapters: Iterable[int]) -> None:
        """Puts adapters into host memory, as long as they fit."""
        for adapter in adapters:
            if not self._put(adapter):
                return

    def _put(self, adapter: int) -> bool:
        size = self.shape.adapter_bytes
        if adapter in self.host:
            return True
        if not self.host.make_room(size):
            return False
        self.host.put(adapter, None, size, self._costs.read(size))
        return True

    def arrive(self, job: Job, now: float) -> None:
        """Takes a request. Raises ValueError for one that could never be admitted."""
        if job.prompt + job.output > self.shape.kv_tokens:
            raise ValueError(f"request {job.number} has {job.prompt + job.output} tokens; {self.shape.kv_tokens} fit")
        if job.adapter is not None:
            self.host.lease(job.adapter)
            if job.adapter not in self.host:
                if job.adapter not in self._wait_for_read:
                    self._wait_for_read[job.adapter] = []
                    self._to_read.append(job.adapter)
                self._wait_for_read[job.adapter].append(job)
                return
        self.queue.add(job, now)

    def read_next(self) -> tuple[int, float] | None:
        """Returns the adapter that is read now and the seconds that takes; None when there is none, or no room for it
        yet."""
        if not self._to_read or not self.host.make_room(self.shape.adapter_bytes):
            return None
        self.totals.reads += 1
        return self._to_read.popleft(), self._costs.read(self.shape.adapter_bytes)

    def read_done(self, adapter: int, now: float) -> None:
        """Puts an adapter that was read into host memory; the requests that waited for it join the queue."""
        held = self._put(adapter)
        assert held
        for job in self._wait_for_read.pop(adapter):
            self.queue.add(job, now)

    def step(self, now: float) -> float | None:
        """Schedules a step; returns its seconds, None when there is nothing to do."""
        self.queue.begin(now, self.running, self.slots.residents)
        budget = self.shape.step_tokens
        scheduled: list[tuple[Job, int]] = []
        for job in self.running:
            tokens = min(budget, job.prompt - job.prefilled or 1)
            budget -= tokens
            if tokens:
                scheduled.append((job, tokens))
        while budget and len(self.running) < self.shape.seats and (head := self.queue.peek()) is not None:
            if self._reserved + head.prompt + head.output > self.shape.kv_tokens:
                break
            job = self.queue.pop()
            self._reserved += job.prompt + job.output
            self.running.append(job)
            tokens = min(budget, job.prompt)
            budget -= tokens
            scheduled.append((job, tokens))
        if not scheduled:
            return None
        self._scheduled = scheduled
        return self._count(scheduled)

    def _count(self, scheduled: Sequence[tuple[Job, int]]) -> float:
        batch = {job.adapter for job, _ in scheduled if job.adapter is not None}
        needed = len(batch.difference(self.slots.residents))
        loaded = self.slots.use(batch)
        for adapter in loaded:
            self.host.get(adapter)
        prefilled = sum(tokens for job, tokens in scheduled if job.prefilled < job.prompt)
        decoded = sum(job.prefilled >= job.prompt for job, _ in scheduled)
        context = sum(job.prefilled + job.decoded for job, _ in scheduled)
        seconds = self._costs.step(Work(decoded, prefilled, context, len(batch), len(loaded)))
        totals = self.totals
        totals.steps += 1
        totals.decoded += decoded
        totals.prefilled += prefilled
        totals.adapters += len(batch)
        totals.needed += needed
        totals.loads += len(loaded)
        totals.busy += seconds
        return seconds

    def step_done(self, now: float) -> list[Job]:
        """Gives out the step's tokens; returns the requests that ended."""
        ended = []
        for job, tokens in self._scheduled:
            if job.prefilled < job.prompt:
                job.prefilled += tokens
                if job.prefilled < job.prompt:
                    continue
                job.first = now
            job.decoded += 1
            if job.decoded == job.output:
                job.finished = now
                job.ends += 1
                ended.append(job)
        for job in ended:
            self._reserved -= job.prompt + job.output
            if job.adapter is not None:
                self.host.release(job.adapter)
        if ended:
            self.running = [job for job in self.running if job.finished < 0]
        self._scheduled = []
        return ended
