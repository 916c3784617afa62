"""The waiting requests of one engine, by adapter, and the order in which they run.

An engine has S adapter slots; a batch holds requests of at most S adapters. An adapter is *active* while a request of
it runs, *resident* while it holds a slot. Requests without an adapter need no slot.

**Order.** Among the requests that may run now, those of a better (lower) priority come first, then those that have aged
out, oldest first, then those whose adapter is active or resident, oldest first, then the oldest of all. So running
adapters are filled up before another one is loaded, and an adapter that is loaded serves all that waits for it. Within
one adapter and priority the order of arrival is kept. Requests of an adapter that is not active may run only while
fewer than S are.

**Ageing.** Preference alone starves: S adapters that always have work never free a slot. A request has aged out when it
has waited longer than `max(patience, AGE_FACTOR · W)`, W being the mean wait of the requests admitted lately: patience
grows with the load, or under saturation everything would have aged out and nothing could be preferred. When a request
has aged out, its adapter is not active, and no slot is free, it gets the next slot that becomes free. If none does for
as long as a request usually runs, one active adapter is *drained*: nothing that ranks after the aged request is
admitted to it, so it ends when its running requests do. (Draining at once would cost more: the requests that it holds
back need a slot again later.) At most half the slots (at least one) drain at a time, so that the others keep the batch
full.

**Guarantee.** Let R be the longest time that an admitted request runs. A request that has aged out while b requests of
its priority or better that rank before it still wait is admitted within (b + 1) · 2R, whatever arrives after it in its
priority: the oldest of them either has an active adapter, and takes the next free seat in the batch, or after at most R
an adapter drains for it and nothing else, which takes at most R. With S busy adapters and one cold request beside them
b is 0, so its wait is bounded by max(patience, AGE_FACTOR · W) + 2R. (A request that the engine takes back, to preempt
it, ranks before all others; each time counts as one more in b.)

**Cost.** A step costs O(running + S log n), a request O(S + log n); no step looks at the whole queue.
"""

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)

AGE_FACTOR = 2.0
"""Multiple of the mean wait after which a request has aged out. The goal is that cold adapters wait at most three times
as long as others; the drain comes on top of this."""

MEMORY = 32
"""Number of requests over which the mean wait, and of adapters over which the usual run, is averaged exponentially: a
few batches, so that they follow the load."""

Rank = tuple[int, int]
"""A request's place in the order, (priority, number): smaller is earlier."""


@dataclass(eq=False, slots=True)
class _Entry(Generic[T]):
    item: T
    adapter: Hashable | None
    rank: Rank
    since: float
    waiting: bool = True

    def __lt__(self, other: "_Entry[T]") -> bool:
        return self.rank < other.rank


@dataclass(slots=True)
class _Group(Generic[T]):
    """The requests that wait for one adapter: a heap, in which removed entries stay until they come up or are the
    majority."""

    heap: list[_Entry[T]] = field(default_factory=list)
    removed: int = 0

    def head(self) -> _Entry[T] | None:
        """Returns the first waiting entry, None when there is none."""
        while self.heap and not self.heap[0].waiting:
            heapq.heappop(self.heap)
            self.removed -= 1
        return self.heap[0] if self.heap else None

    def note_removed(self) -> None:
        """Counts a removed entry, and rebuilds the heap when such entries are the majority."""
        self.removed += 1
        if 2 * self.removed > len(self.heap):
            self.heap = [entry for entry in self.heap if entry.waiting]
            heapq.heapify(self.heap)
            self.removed = 0


class Running(NamedTuple):
    """A running request: its adapter (None for a request without one), and how many steps it may still run at most."""

    adapter: Hashable | None
    remaining: int


class AdapterQueue(Generic[T]):
    """The waiting requests. Items are any hashable objects, compared by identity or value as they define it.

    Between `begin_step` and the next one the order is frozen: `pop` returns what `peek` returned, and time stands
    still. The queue is not thread-safe.
    """

    def __init__(self, slots: int, patience: float) -> None:
        """Makes an empty queue for S = `slots` slots; `patience` is in seconds, by the clock of `add` and `begin_step`.

        Raises:
            ValueError: there is no slot, or the patience is negative.
        """
        if slots < 1 or patience < 0:
            raise ValueError(f"slots must be at least 1 and patience not negative, not {slots} and {patience}")
        self.slots = slots
        self.patience = patience
        self.draining: dict[Hashable, Rank] = {}
        """Draining adapters, each with the rank of the request for which it drains."""
        self.mean_wait = 0.0
        """Mean wait in seconds of the requests admitted lately."""
        self.usual_run = 0.0
        """Mean time in seconds from the last request that an adapter got to its end; at most R."""
        self.aged_out = 0
        """Number of requests admitted after they had aged out, since the start."""
        self._entries: dict[T, _Entry[T]] = {}
        self._groups: dict[Hashable | None, _Group[T]] = {}
        self._idle: list[tuple[Rank, Hashable]] = []
        """A heap of the heads of the groups that are not active; entries that are out of date are dropped as they come
        up."""
        self._active: set[Hashable] = set()
        self._admitted_at: dict[Hashable, float] = {}
        """Time at which each active adapter got its last request."""
        self._ended = 0
        self._moved = 0.0
        """Time at which a slot was last freed, or at which no aged-out request was waiting."""
        self._residents: frozenset[Hashable] = frozenset()
        self._pinned: frozenset[Hashable] = frozenset()
        self._now = 0.0
        self._aged_since = float("-inf")
        self._number = 0
        self._admitted = 0
        self._front = 0
        self._choice: _Entry[T] | None = None

    # -- the waiting requests

    def add(self, item: T, adapter: Hashable | None, now: float, priority: int = 0) -> None:
        """Adds a request behind those that wait in its priority.

        Raises:
            ValueError: it waits already.
        """
        self._number += 1
        self._insert(_Entry(item, adapter, (priority, self._number), now))

    def add_front(self, item: T, adapter: Hashable | None, now: float, priority: int = 0) -> None:
        """Takes a preempted request back, before all others of its priority.

        Raises:
            ValueError: it waits already.
        """
        self._front -= 1
        self._insert(_Entry(item, adapter, (priority, self._front), now))

    def _insert(self, entry: _Entry[T]) -> None:
        if entry.item in self._entries:
            raise ValueError(f"{entry.item!r} waits already")
        self._entries[entry.item] = entry
        group = self._groups.setdefault(entry.adapter, _Group())
        heapq.heappush(group.heap, entry)
        if group.head() is entry:
            self._index(entry.adapter)
        self._choice = None

    def remove(self, item: T) -> bool:
        """Takes a request out; returns False when it does not wait here."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        self._drop(entry)
        self._choice = None
        return True

    def _drop(self, entry: _Entry[T]) -> None:
        group = self._groups[entry.adapter]
        was_head = group.head() is entry
        entry.waiting = False
        group.note_removed()
        if group.head() is None:
            del self._groups[entry.adapter]
        elif was_head:
            self._index(entry.adapter)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: object) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[T]:
        """Iterates by priority and arrival over all requests; sorts them, so it is not for scheduling."""
        return (entry.item for entry in sorted(self._entries.values()))

    def waiting_by_adapter(self) -> dict[Hashable | None, int]:
        """Returns the number of waiting requests for each adapter that any waits for; None counts those without an
        adapter."""
        return {adapter: len(group.heap) - group.removed for adapter, group in self._groups.items()}

    def waiting_by_reason(self) -> dict[str, int]:
        """Returns the number of requests that wait, as of this step, for a `slot` (S other adapters are active), for a
        draining adapter to end (`draining`), or only for a seat in the batch (`seat`)."""
        counts = {"slot": 0, "draining": 0, "seat": 0}
        full = len(self._active) >= self.slots
        for adapter, count in self.waiting_by_adapter().items():
            if adapter in self.draining:
                counts["draining"] += count
            elif adapter is None or adapter in self._active or not full:
                counts["seat"] += count
            else:
                counts["slot"] += count
        return counts

    # -- the request that runs next

    def begin_step(
        self,
        now: float,
        running: Iterable[Running],
        residents: Iterable[Hashable] = (),
        pinned: Iterable[Hashable] = (),
    ) -> None:
        """Takes note of the running requests and the resident adapters, and decides which requests have aged out and
        which adapters drain.

        Args:
            now: time in seconds, by the clock of `add`.
            running: the running requests.
            residents: adapters that hold a slot.
            pinned: residents that keep their slot; they count as active, since no other adapter can have it.
        """
        self._now = now
        self._choice = None
        remaining: dict[Hashable, int] = {}
        for adapter, left in running:
            if adapter is not None:
                remaining[adapter] = max(left, remaining.get(adapter, 0))
        before, self._active = self._active, remaining.keys() | pinned
        ended = before - self._active
        for adapter in ended:
            self._index(adapter)
            self._note_ended(adapter)
        self._residents = frozenset(residents)
        self._pinned = frozenset(pinned)
        # never moves back: a request that has aged out stays so when the mean wait grows
        self._aged_since = max(self._aged_since, now - max(self.patience, AGE_FACTOR * self.mean_wait))
        self._choose_draining(remaining)

    def _note_ended(self, adapter: Hashable) -> None:
        self._moved = self._now
        admitted = self._admitted_at.pop(adapter, None)
        if admitted is not None:
            self._ended += 1
            self.usual_run += (self._now - admitted - self.usual_run) / min(self._ended, MEMORY)

    def _choose_draining(self, remaining: dict[Hashable, int]) -> None:
        limit = max(1, self.slots // 2)
        free = max(0, self.slots - len(self._active))
        wanted = self._aged_idle(free + limit)[free:]
        if not wanted:
            self._moved = self._now
        kept = [adapter for adapter in self.draining if adapter in self._active]
        if self._now - self._moved < self.usual_run:
            limit = len(kept)
        others = sorted(
            (adapter for adapter in remaining if adapter not in self.draining and adapter not in self._pinned),
            key=lambda adapter: (self._head_rank(adapter) < wanted[0] if wanted else False, remaining[adapter]),
        )
        self.draining = dict(zip([*kept, *others][:limit], wanted, strict=False))

    def upcoming(self, count: int) -> tuple[Hashable, ...]:
        """Returns up to `count` adapters that are waited for and neither active nor resident, as of this step; those
        likely to be loaded first come first."""
        found = self._oldest_idles(count + len(self._residents), lambda _: True)
        return tuple(adapter for _, adapter in found if adapter not in self._residents)[:count]

    def _aged_idle(self, count: int) -> list[Rank]:
        """Returns the heads of up to `count` groups that are not active and whose head has aged out, oldest first."""
        return [rank for rank, _ in self._oldest_idles(count, self._has_aged)]

    def _oldest_idles(self, count: int, include: Callable[[_Entry[T]], bool]) -> list[tuple[Rank, Hashable]]:
        """Returns the heads of up to `count` groups that are not active, oldest first, and stops before the first one
        that `include` rejects."""
        found: list[tuple[Rank, Hashable]] = []
        while len(found) < count and (top := self._oldest_idle()) is not None and include(top):
            item = heapq.heappop(self._idle)
            if not found or found[-1] != item:  # an adapter that was active meanwhile may stand there twice
                found.append(item)
        for item in found:
            heapq.heappush(self._idle, item)
        return found

    def peek(self) -> T | None:
        """Returns the request that runs next, None when none may run now."""
        if self._choice is None:
            self._choice = self._choose()
        return self._choice.item if self._choice is not None else None

    def pop(self) -> T:
        """Takes out the request that `peek` returns; its adapter is active from now on.

        Raises:
            IndexError: no request may run now.
        """
        if self.peek() is None or self._choice is None:
            raise IndexError("no waiting request may run now")
        entry, self._choice = self._choice, None
        self.aged_out += self._has_aged(entry)
        self._admitted += 1
        self.mean_wait += (max(0.0, self._now - entry.since) - self.mean_wait) / min(self._admitted, MEMORY)
        del self._entries[entry.item]
        if entry.adapter is not None:
            self._active.add(entry.adapter)
            self._admitted_at[entry.adapter] = self._now
        self._drop(entry)
        return entry.item

    def _choose(self) -> _Entry[T] | None:
        best: tuple[int, int, int, int] | None = None
        chosen: _Entry[T] | None = None
        for entry, cold in self._candidates():
            aged = self._has_aged(entry)
            key = (entry.rank[0], 0 if aged else 1, 0 if aged else cold, entry.rank[1])
            if best is None or key < best:
                best, chosen = key, entry
        return chosen

    def _candidates(self) -> Iterator[tuple[_Entry[T], int]]:
        """Yields the first request of each group that may run now, and 1 if its adapter would have to be loaded, else
        0: of active adapters and of none, of resident ones while a slot is free, and then the oldest of all others."""
        for adapter in (None, *self._active):
            head = self._head(adapter)
            if head is not None and not (adapter in self.draining and head.rank > self.draining[adapter]):
                yield head, 0
        if len(self._active) < self.slots:
            for adapter in self._residents - self._active:
                head = self._head(adapter)
                if head is not None:
                    yield head, 0
            oldest = self._oldest_idle()
            if oldest is not None:
                yield oldest, int(oldest.adapter not in self._residents)

    def _has_aged(self, entry: _Entry[T]) -> bool:
        return entry.since < self._aged_since

    def _head(self, adapter: Hashable | None) -> _Entry[T] | None:
        group = self._groups.get(adapter)
        return group.head() if group is not None else None

    def _head_rank(self, adapter: Hashable) -> Rank:
        head = self._head(adapter)
        return head.rank if head is not None else (2**63, 0)

    # -- the heads of groups that are not active

    def _index(self, adapter: Hashable | None) -> None:
        head = self._head(adapter)
        if adapter is None or adapter in self._active or head is None:
            return
        heapq.heappush(self._idle, (head.rank, adapter))
        if len(self._idle) > 4 * len(self._groups) + 64:
            heads = ((other, self._head(other)) for other in self._groups)
            self._idle = [
                (head.rank, other)
                for other, head in heads
                if other is not None and head is not None and other not in self._active
            ]
            heapq.heapify(self._idle)

    def _oldest_idle(self) -> _Entry[T] | None:
        while self._idle:
            rank, adapter = self._idle[0]
            head = self._head(adapter) if adapter not in self._active else None
            if head is not None and head.rank == rank:
                return head
            heapq.heappop(self._idle)
        return None

    def check_integrity(self) -> None:
        """Checks the tables against each other.

        Raises:
            AssertionError: they disagree.
        """
        waiting = [entry for group in self._groups.values() for entry in group.heap if entry.waiting]
        assert len(waiting) == len(self._entries)
        assert all(self._entries[entry.item] is entry for entry in waiting)
        indexed = set(self._idle)
        for adapter, group in self._groups.items():
            head = group.head()
            assert head is not None
            assert group.removed == sum(not entry.waiting for entry in group.heap)
            assert adapter is None or adapter in self._active or (head.rank, adapter) in indexed
        assert len(self.draining) <= max(1, self.slots // 2)
