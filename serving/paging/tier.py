"""The host tier: a thread reads and checks adapters, and requests are told when theirs is in host memory.

`acquire` is called when a request arrives, long before the scheduler sees it; the engine's step then finds the adapter
in memory (`held`). Between the two a lease keeps the adapter from being evicted. Loads wait, in order, while leases
leave no room for them: running requests end and give theirs back.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from serving.paging.host import HostCache

logger = logging.getLogger(__name__)

R = TypeVar("R")
V = TypeVar("V")

STOPPING = "the engine is stopping"
"""Reason for which an adapter is not loaded when the tier is closed."""

Done = Callable[[str | None], None]
"""Called once: with None when the adapter is in memory, or with the reason why it never will be."""


class Loaded(NamedTuple, Generic[V]):
    """An adapter in memory and its size in bytes."""

    value: V
    size: int


@dataclass
class TierCounts:
    """Counts of the host tier since its start."""

    reads: int = 0
    """Number of adapters read from disk."""
    read_seconds: float = 0.0
    """Seconds spent reading and checking them."""
    read_bytes: int = 0
    reads_by_callers: int = 0
    """Number of these reads that `load_now` did in the thread of its caller, which waited."""
    failures: int = 0
    """Number of loads that failed."""
    waited_for_room: int = 0
    """Number of loads that had to wait because leased adapters filled the budget."""


@dataclass
class _Job(Generic[R]):
    request: R
    waiting: list[Done] = field(default_factory=list)
    delayed: bool = False


class HostTier(Generic[R, V]):
    """Adapters in host memory. It is thread-safe. A request (type R) names an adapter by `key_of(request)`."""

    def __init__(
        self,
        budget: int,
        key_of: Callable[[R], int],
        size_of: Callable[[R], int],
        read: Callable[[R], Loaded[V]],
        changed: Callable[[], None] = lambda: None,
        settled: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """Starts the loader's thread.

        Args:
            budget: bytes of host memory for adapters.
            key_of: returns the number of a request's adapter.
            size_of: returns its bytes before it is read; raises for an adapter that cannot be used.
            read: reads and checks an adapter; raises likewise. Both are called without locks held.
            changed: called after the adapters in memory have changed.
            settled: returns whether the adapter with this key needs no copy in host memory because it is pinned to a
                slot.
        """
        self.cache: HostCache[int, V] = HostCache(budget)
        self.counts = TierCounts()
        self._key_of, self._size_of, self._read, self._changed = key_of, size_of, read, changed
        self._settled = settled
        self._jobs: deque[_Job[R]] = deque()
        self._by_key: dict[int, _Job[R]] = {}
        self._lock = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="adapter-loader", daemon=True)
        self._thread.start()

    def acquire(self, request: R, done: Done) -> None:
        """Leases the request's adapter and has it read if it is not in memory. `done` is called by this thread or by
        the loader's; after a failure nothing is leased."""
        key = self._key_of(request)
        with self._lock:
            closed = self._closed
            if not closed:
                self.cache.lease(key)
            if not closed and not self.cache.use(key) and not self._settled(key):
                job = self._by_key.get(key)
                if job is None:
                    job = self._by_key[key] = _Job(request)
                    self._jobs.append(job)
                    self._lock.notify_all()
                job.waiting.append(done)
                return
        done(STOPPING if closed else None)

    def lease(self, request: R) -> None:
        """Leases the adapter without having it read: once it is in memory it stays there."""
        with self._lock:
            self.cache.lease(self._key_of(request))

    def release(self, request: R) -> None:
        """Gives a lease back."""
        with self._lock:
            self.cache.release(self._key_of(request))
            self._lock.notify_all()

    def held(self, key: int) -> V | None:
        """Returns the adapter if it is in memory, else None."""
        with self._lock:
            return self.cache.get(key)

    def load_now(self, request: R) -> V:
        """Reads the adapter in this thread, for callers that came without `acquire`, and keeps it if there is room.

        Raises:
            Exception: any error that `read` raises.
        """
        loaded, seconds = self._timed_read(request)
        key = self._key_of(request)
        with self._lock:
            self.counts.reads_by_callers += 1
            if key not in self.cache and self.cache.make_room(loaded.size):
                self.cache.put(key, loaded.value, loaded.size, seconds)
        self._changed()
        return loaded.value

    def remove(self, key: int) -> bool:
        """Drops an adapter; returns whether it was in memory."""
        with self._lock:
            removed = self.cache.remove(key)
            self._lock.notify_all()
        if removed:
            self._changed()
        return removed

    def clear(self) -> None:
        """Drops all adapters."""
        for key in self.sizes():
            self.remove(key)

    def sizes(self) -> dict[int, int]:
        """Returns the bytes of each adapter in memory."""
        with self._lock:
            return self.cache.sizes()

    def size(self, key: int) -> int:
        """Returns the bytes of one adapter; 0 when it is not in memory."""
        with self._lock:
            return self.cache.size(key)

    def waiting(self) -> int:
        """Returns the number of adapters that are being read or wait for it."""
        with self._lock:
            return len(self._by_key)

    def close(self) -> None:
        """Ends the loader's thread; loads that wait fail with `STOPPING`."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            reason = self._load(job)
            if reason is not None:
                logger.warning("adapter %s was not loaded: %s", self._key_of(job.request), reason)
            self._finish(job, reason)
        for left in tuple(self._jobs):
            self._finish(left, STOPPING)

    def _next_job(self) -> _Job[R] | None:
        """Waits for a load to do; None when the tier is closed."""
        with self._lock:
            while not self._jobs and not self._closed:
                self._lock.wait()
            return None if self._closed else self._jobs[0]

    def _finish(self, job: _Job[R], reason: str | None) -> None:
        key = self._key_of(job.request)
        with self._lock:
            if self._jobs and self._jobs[0] is job:
                self._jobs.popleft()
            del self._by_key[key]
            if reason is not None:
                self.counts.failures += 1
                for _ in job.waiting:
                    self.cache.release(key)
                self._lock.notify_all()
        self._changed()
        for done in job.waiting:
            done(reason)

    def _load(self, job: _Job[R]) -> str | None:
        """Brings the job's adapter into memory; returns None, or the reason why it failed."""
        try:
            size = self._size_of(job.request)
            if size > self.cache.budget:
                return self._too_large(size)
            if not self._wait_for_room(job, size):
                return STOPPING
            loaded, seconds = self._timed_read(job.request)
        except Exception as error:  # noqa: BLE001  # fails the requests that wait for it, never the thread
            return f"{error}" or type(error).__name__
        if loaded.size > self.cache.budget:
            return self._too_large(loaded.size)
        key = self._key_of(job.request)
        with self._lock:
            while key not in self.cache:
                if self.cache.make_room(loaded.size):  # it may be larger in memory than on disk
                    self.cache.put(key, loaded.value, loaded.size, seconds)
                elif self._closed:
                    return STOPPING
                else:
                    self._lock.wait()
        return None

    def _too_large(self, size: int) -> str:
        return f"the adapter has {size} bytes; host memory for adapters is {self.cache.budget} bytes"

    def _wait_for_room(self, job: _Job[R], size: int) -> bool:
        """Waits until `size` bytes are free; returns False when the tier is closed meanwhile."""
        with self._lock:
            while not self.cache.make_room(size):
                if self._closed:
                    return False
                self.counts.waited_for_room += not job.delayed
                job.delayed = True
                self._lock.wait()
        return True

    def _timed_read(self, request: R) -> tuple[Loaded[V], float]:
        start = time.perf_counter()
        loaded = self._read(request)
        seconds = time.perf_counter() - start
        with self._lock:
            self.counts.reads += 1
            self.counts.read_seconds += seconds
            self.counts.read_bytes += loaded.size
        return loaded, seconds
