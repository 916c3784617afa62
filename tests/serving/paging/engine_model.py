"""A model of an engine that runs requests in steps, for tests of the waiting queue: seats, slots, and time in steps."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.paging.queue import AdapterQueue, Running
from serving.paging.slots import SlotTable


@dataclass(eq=False)
class Job:
    """One request: when it arrives and how many steps it runs."""

    number: int
    adapter: int | None
    arrival: int
    length: int
    tenant: str | None = None
    weight: float = 1.0
    cost: float = 1.0
    head_start: float = 0.0
    left: int = 0
    admitted: int | None = None

    def wait(self, now: int) -> int:
        return (self.admitted if self.admitted is not None else now) - self.arrival


class Waiting(Protocol):
    """What the engine asks of its queue."""

    def arrive(self, job: Job, now: int) -> None: ...

    def begin(self, now: int, running: Sequence[Job], residents: Iterable[int]) -> None: ...

    def take(self) -> Job | None: ...

    def end(self, job: Job) -> None: ...


class OurQueue:
    def __init__(self, slots: int, patience: float, seats: int | None = None) -> None:
        self.queue: AdapterQueue[Job] = AdapterQueue(slots, patience, seats)

    def arrive(self, job: Job, now: int) -> None:
        self.queue.add(
            job,
            job.adapter,
            now,
            tenant=job.tenant,
            weight=job.weight,
            cost=job.cost,
            head_start=job.head_start,
        )

    def begin(self, now: int, running: Sequence[Job], residents: Iterable[int]) -> None:
        self.queue.begin_step(now, (Running(job.adapter, job.left) for job in running), residents)

    def take(self) -> Job | None:
        return self.queue.pop() if self.queue.peek() is not None else None

    def end(self, job: Job) -> None:
        self.queue.finished(job, job.length)


class StockQueue:
    """vLLM 0.29's order: first come, first served; a request whose adapter would be one too many is passed over."""

    def __init__(self, slots: int) -> None:
        self.slots, self.waiting, self.batch = slots, deque(), set()

    def arrive(self, job: Job, now: int) -> None:
        self.waiting.append(job)

    def begin(self, now: int, running: Sequence[Job], residents: Iterable[int]) -> None:
        self.batch = {job.adapter for job in running if job.adapter is not None}

    def take(self) -> Job | None:
        for job in self.waiting:
            if job.adapter is None or job.adapter in self.batch or len(self.batch) < self.slots:
                self.waiting.remove(job)
                if job.adapter is not None:
                    self.batch.add(job.adapter)
                return job
        return None

    def end(self, job: Job) -> None:
        pass


class Engine:
    """`seats` requests of at most `slots` adapters run at once; each step brings each of them one further."""

    def __init__(self, queue: Waiting, slots: int, seats: int) -> None:
        self.queue, self.slots, self.seats = queue, slots, seats
        self.table = SlotTable(slots)
        self.running: list[Job] = []
        self.now = 0

    def step(self, arriving: Iterable[Job] = ()) -> list[Job]:
        """Returns the requests that were admitted."""
        for job in arriving:
            self.queue.arrive(job, self.now)
        self.queue.begin(self.now, self.running, self.table.residents)
        admitted = []
        while len(self.running) < self.seats and (job := self.queue.take()) is not None:
            job.admitted, job.left = self.now, job.length
            self.running.append(job)
            admitted.append(job)
        batch = {job.adapter for job in self.running if job.adapter is not None}
        assert len(batch) <= self.slots
        self.table.use(batch)
        for job in self.running:
            job.left -= 1
        for job in self.running:
            if not job.left:
                self.queue.end(job)
        self.running = [job for job in self.running if job.left]
        self.now += 1
        return admitted
