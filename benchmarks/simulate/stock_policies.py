"""The policies of vLLM 0.29 for adapters, for `benchmarks.simulate`: its waiting queue and its slots."""

import random
from collections.abc import Iterable, Sequence

from benchmarks.simulate.job import Job


class StockQueue:
    """vLLM 0.29's waiting queue: first come, first served; a request whose adapter would be one too many is passed
    over."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._waiting: dict[Job, None] = {}
        self._batch: set[int] = set()

    def add(self, job: Job, now: float) -> None:  # noqa: ARG002
        self._waiting[job] = None

    def begin(self, now: float, running: Sequence[Job], residents: Iterable[int]) -> None:  # noqa: ARG002
        self._batch = {job.adapter for job in running if job.adapter is not None}

    def peek(self) -> Job | None:
        full = len(self._batch) >= self._slots
        return next(
            (job for job in self._waiting if not full or job.adapter is None or job.adapter in self._batch), None
        )

    def pop(self) -> Job:
        job = self.peek()
        assert job is not None
        del self._waiting[job]
        if job.adapter is not None:
            self._batch.add(job.adapter)
        return job

    def __len__(self) -> int:
        return len(self._waiting)


class StockSlots:
    """vLLM 0.29's `_apply_adapters`: a batch's adapters are loaded or touched in turn, in the order of a set, so a
    loaded adapter may evict another one that comes later in the same batch."""

    def __init__(self, slots: int, seed: int = 0) -> None:
        self._slots = slots
        self._used: dict[int, None] = {}
        self._order = random.Random(seed)
        self._place: dict[int, float] = {}
        self.loads = 0

    @property
    def residents(self) -> tuple[int, ...]:
        return tuple(self._used)

    def use(self, batch: Iterable[int]) -> list[int]:
        loaded = []
        for adapter in sorted(set(batch), key=lambda one: self._place.setdefault(one, self._order.random())):
            if adapter not in self._used:
                loaded.append(adapter)
                if len(self._used) >= self._slots:
                    del self._used[next(iter(self._used))]
            else:
                del self._used[adapter]
            self._used[adapter] = None
        self.loads += len(loaded)
        return loaded
