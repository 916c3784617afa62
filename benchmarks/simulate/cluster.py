"""Engines behind one router under a simulated clock, for `benchmarks.simulate`. Placement is the code that serves."""

import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from benchmarks.simulate.engine import Engine
from benchmarks.simulate.job import Job
from router.placement import Option, Placement, ReplicaState, Reports

REPORT_PERIOD_S = 1.1
"""Seconds from one report of a replica to the next, as Ray Serve 2.60 pulls them with a period of 1 s."""


class Choose(Protocol):
    """A way to choose the replica for a request."""

    def __call__(self, job: Job, states: Mapping[str, ReplicaState]) -> str: ...


def by_placement(placement: Placement) -> Choose:
    """Returns a choice as the router makes it for a request whose learnware is fixed."""

    def choose(job: Job, states: Mapping[str, ReplicaState]) -> str:
        adapter = None if job.adapter is None else str(job.adapter)
        return placement.place([Option(adapter, adapter, 1.0)], states).replica

    return choose


def at_random(seed: int = 0) -> Choose:
    """Returns a random choice, as Ray Serve makes it when it reserves nothing."""
    generator = random.Random(seed)
    return lambda _job, states: generator.choice(list(states))


class Event(NamedTuple):
    """An event that is due at `time`; the number keeps events of one time in their order."""

    time: float
    number: int
    happens: Callable[[float], None]


@dataclass
class Cluster:
    """Engines by name, one router in front of them, and the clock. The router knows each engine's last report, and the
    requests that it has sent since."""

    engines: Mapping[str, Engine]
    choose: Choose
    _events: list[Event] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def run(self, jobs: Sequence[Job], enough: Callable[[Job], bool] = lambda _: False) -> float:
        """Serves all jobs, or until `enough` says so of one that ended; returns the time of the last event."""
        self._reports = Reports()
        self._known: dict[str, dict[str, object]] = {name: {} for name in self.engines}
        self._stepping: set[str] = set()
        self._reading: set[str] = set()
        self._left = len(jobs)
        self._enough = enough
        for job in jobs:
            self._at(job.arrival, lambda now, job=job: self._arrive(job, now))
        if len(self.engines) > 1:
            for number, name in enumerate(self.engines):
                self._at(REPORT_PERIOD_S * number / len(self.engines), lambda now, name=name: self._report(name, now))
        now = 0.0
        while self._events and self._left:
            event = heapq.heappop(self._events)
            now = event.time
            event.happens(now)
        return now

    def _at(self, time: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, Event(time, next(self._numbers), happens))

    def _report(self, name: str, now: float) -> None:
        engine = self.engines[name]
        self._known[name] = {"adapters": engine.tiers(), "running": engine.load, "waiting": 0}
        self._at(now + REPORT_PERIOD_S, lambda then: self._report(name, then))

    def _arrive(self, job: Job, now: float) -> None:
        if len(self.engines) == 1:
            name = next(iter(self.engines))
        else:
            name = self.choose(job, self._reports.states(self._known, now))
            self._reports.note_sent(name, now)
        self.engines[name].arrive(job, now)
        self._go_on(name, now)

    def _go_on(self, name: str, now: float) -> None:
        engine = self.engines[name]
        if name not in self._reading and (reading := engine.read_next()) is not None:
            self._reading.add(name)
            adapter, seconds = reading
            self._at(now + seconds, lambda then: self._read_done(name, adapter, then))
        if name not in self._stepping and (step := engine.step(now)) is not None:
            self._stepping.add(name)
            self._at(now + step, lambda then: self._step_done(name, then))

    def _read_done(self, name: str, adapter: int, now: float) -> None:
        self._reading.discard(name)
        self.engines[name].read_done(adapter, now)
        self._go_on(name, now)

    def _step_done(self, name: str, now: float) -> None:
        self._stepping.discard(name)
        for job in self.engines[name].step_done(now):
            self._left = 0 if self._enough(job) else self._left - 1
        self._go_on(name, now)
