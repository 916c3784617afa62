"""The tables of the waiting requests: by lane (a tenant and a head start) and adapter, each looked up in O(log n).

A request stands in the *line* of its lane and adapter. The lines of an adapter are ranked by their tenants' counters
(`serving.paging.fair_share`), and so are all lanes that have requests for adapters that are not active.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from serving.paging.fair_share import Account

T = TypeVar("T", bound=Hashable)

LANES = 64
"""Number of lanes, the first ones in their order, among whose requests `Waiting.first_idle` looks."""


@dataclass(eq=False, slots=True)
class Lane(Generic[T]):
    """The waiting requests of one tenant with one head start, by adapter."""

    account: Account | None
    """None for the lane of requests that the engine took back, of whatever tenant."""
    head_start: float
    number: int
    lines: dict[Hashable | None, "Line[T]"] = field(default_factory=dict)
    idle: list[tuple[int, Hashable]] = field(default_factory=list)
    """A heap of the first requests of its lines whose adapter is not active, as (number, adapter); entries that are out
    of date are dropped as they come up."""
    ranked: bool = False

    @property
    def value(self) -> float:
        """Returns the tenant's counter less the head start: smaller is earlier."""
        return self.account.service - self.head_start if self.account is not None else float("-inf")

    @property
    def live(self) -> bool:
        """Returns whether a request waits in it."""
        return bool(self.lines)


@dataclass(eq=False, slots=True)
class Entry(Generic[T]):
    """One waiting request. Within a lane a smaller number is earlier."""

    item: T
    adapter: Hashable | None
    number: int
    since: float
    account: Account
    lane: Lane[T]
    cost: float
    waiting: bool = True

    @property
    def rank(self) -> tuple[float, int]:
        """Returns its place in the order as of now: smaller is earlier."""
        return self.lane.value, self.number

    def __lt__(self, other: "Entry[T]") -> bool:
        return self.number < other.number


@dataclass(eq=False, slots=True)
class Line(Generic[T]):
    """The requests of one lane that wait for one adapter: a heap, in which removed entries stay until they come up or
    are the majority. A line that has become empty is not used again."""

    lane: Lane[T]
    number: int
    heap: list[Entry[T]] = field(default_factory=list)
    removed: int = 0

    @property
    def value(self) -> float:
        """Returns the value of its lane: smaller is earlier."""
        return self.lane.value

    @property
    def live(self) -> bool:
        """Returns whether a request waits in it."""
        return self.head() is not None

    def head(self) -> Entry[T] | None:
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


class _Ranked(Protocol):
    number: int

    @property
    def value(self) -> float: ...

    @property
    def live(self) -> bool: ...


R = TypeVar("R", bound=_Ranked)


class Ranking(Generic[R]):
    """A heap of lanes or lines by a value that only grows while they live. An entry whose value has grown is put right
    when it comes up, and one that no longer lives is dropped, so a tenant's charge costs nothing here."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, R]] = []
        self._limit = 16

    def push(self, member: R) -> None:
        """Adds a member that is not in it."""
        heapq.heappush(self._heap, (member.value, member.number, member))
        if len(self._heap) > self._limit:
            self._heap = [(one.value, one.number, one) for _, _, one in self._heap if one.live]
            heapq.heapify(self._heap)
            self._limit = 2 * len(self._heap) + 16

    def first(self) -> R | None:
        """Returns the living member of the smallest value, None when there is none."""
        while self._heap:
            value, number, member = self._heap[0]
            if not member.live:
                heapq.heappop(self._heap)
            elif member.value > value:
                heapq.heapreplace(self._heap, (member.value, number, member))
            else:
                return member
        return None

    def take(self) -> R | None:
        """Returns what `first` returns, and takes it out."""
        member = self.first()
        if member is not None:
            heapq.heappop(self._heap)
        return member


@dataclass(eq=False, slots=True)
class _Group(Generic[T]):
    """The requests that wait for one adapter."""

    lines: dict[Lane[T], Line[T]] = field(default_factory=dict)
    ranking: Ranking[Line[T]] = field(default_factory=Ranking)
    """The lines of tenants; that of requests which were taken back stands beside it."""
    waiting: int = 0


class Waiting(Generic[T]):
    """All waiting requests of an engine. `active` is the set of the adapters that run; who changes it calls `index` for
    each adapter that has left it."""

    def __init__(self) -> None:
        self.entries: dict[T, Entry[T]] = {}
        self.active: Collection[Hashable] = frozenset()
        self.front: Lane[T] = Lane(None, 0.0, 0)
        """The requests that the engine took back."""
        self._groups: dict[Hashable | None, _Group[T]] = {}
        self._lanes: dict[tuple[Hashable, float], Lane[T]] = {}
        self._idle: Ranking[Lane[T]] = Ranking()
        """The lanes that have requests for adapters that are not active; others are dropped as they come up."""
        self._by_age: deque[Entry[T]] = deque()
        """The requests in the order in which they were added; removed ones stay until they come up or are the
        majority."""
        self._number = 0
        self._returned = 0

    def add(
        self, item: T, adapter: Hashable | None, since: float, account: Account, cost: float, head_start: float | None
    ) -> None:
        """Adds a request that waits since then behind those of its tenant with its head start, or before all others
        (None)."""
        if head_start is None:
            self._returned -= 1
            number, lane = self._returned, self.front
        else:
            self._number += 1
            number, key = self._number, (account.name, head_start)
            known = self._lanes.get(key)
            lane = known if known is not None else self._lanes.setdefault(key, Lane(account, head_start, number))
        entry = self.entries[item] = Entry(item, adapter, number, since, account, lane, cost)
        group = self._groups.setdefault(adapter, _Group())
        group.waiting += 1
        line = lane.lines.get(adapter)
        if line is None:
            line = group.lines[lane] = lane.lines[adapter] = Line(lane, number, [entry])
            if lane is not self.front:
                group.ranking.push(line)
        else:
            heapq.heappush(line.heap, entry)
        if line.head() is entry:
            self._index(adapter, line)
        self._by_age.append(entry)
        if len(self._by_age) > 2 * len(self.entries) + 64:
            self._by_age = deque(one for one in self._by_age if one.waiting)

    def drop(self, entry: Entry[T]) -> None:
        """Takes a request out."""
        group, lane = self._groups[entry.adapter], entry.lane
        line = group.lines[lane]
        was_head = line.head() is entry
        del self.entries[entry.item]
        entry.waiting = False
        group.waiting -= 1
        line.note_removed()
        if line.head() is None:
            del group.lines[lane], lane.lines[entry.adapter]
            if not group.lines:
                del self._groups[entry.adapter]
            if not lane.lines and lane is not self.front:
                del self._lanes[entry.account.name, lane.head_start]
        elif was_head:
            self._index(entry.adapter, line)

    def by_adapter(self) -> dict[Hashable | None, int]:
        """Returns the number of requests for each adapter that any waits for."""
        return {adapter: group.waiting for adapter, group in self._groups.items()}

    def oldest_since(self) -> float | None:
        """Returns the time since which the request that was added first waits; None when none waits."""
        while self._by_age and not self._by_age[0].waiting:
            self._by_age.popleft()
        return self._by_age[0].since if self._by_age else None

    def head(self, adapter: Hashable | None) -> Entry[T] | None:
        """Returns the first request for the adapter; None when there is none."""
        group = self._groups.get(adapter)
        if group is None:
            return None
        line = group.lines.get(self.front) or group.ranking.first()
        return line.head() if line is not None else None

    # -- requests for adapters that are not active

    def index(self, adapter: Hashable) -> None:
        """Takes note of an adapter that is not active any longer."""
        if (group := self._groups.get(adapter)) is not None:
            for line in group.lines.values():
                self._index(adapter, line)

    def _index(self, adapter: Hashable | None, line: Line[T]) -> None:
        head, lane = line.head(), line.lane
        if adapter is None or adapter in self.active or head is None:
            return
        heapq.heappush(lane.idle, (head.number, adapter))
        if len(lane.idle) > 4 * len(lane.lines) + 64:
            lane.idle = [
                (head.number, other)
                for other, one in lane.lines.items()
                if other is not None and other not in self.active and (head := one.head()) is not None
            ]
            heapq.heapify(lane.idle)
        if not lane.ranked and lane is not self.front:
            lane.ranked = True
            self._idle.push(lane)

    def idle_head(self) -> Entry[T] | None:
        """Returns the oldest request whose adapter is not active of those that were taken back or, if there is none, of
        the first lane that has one."""
        head = self._idle_head(self.front)
        while head is None and (lane := self._idle.first()) is not None:
            head = self._idle_head(lane)
            if head is None:
                self._idle.take()
                lane.ranked = False
        return head

    def _idle_head(self, lane: Lane[T]) -> Entry[T] | None:
        while lane.idle:
            number, adapter = lane.idle[0]
            line = lane.lines.get(adapter) if adapter not in self.active else None
            head = line.head() if line is not None else None
            if head is not None and head.number == number:
                return head
            heapq.heappop(lane.idle)
        return None

    def first_idle(self, count: int, include: Callable[[Entry[T]], bool]) -> list[Entry[T]]:
        """Returns the first requests for up to `count` adapters that are not active, in their order: of each lane those
        before the first one that `include` rejects."""
        found: dict[Hashable | None, Entry[T]] = {}
        taken: list[Lane[T]] = []
        lane: Lane[T] | None = self.front
        while lane is not None:
            items = []
            while len(found) < count and (head := self._idle_head(lane)) is not None and include(head):
                items.append(heapq.heappop(lane.idle))
                found.setdefault(head.adapter, head)
            for item in dict.fromkeys(items):  # an adapter that was active meanwhile may stand there twice
                heapq.heappush(lane.idle, item)
            lane = self._idle.take() if len(found) < count and len(taken) < LANES else None
            if lane is not None:
                taken.append(lane)
        for lane in taken:
            self._idle.push(lane)
        return list(found.values())

    def check_integrity(self) -> None:
        """Checks the tables against each other.

        Raises:
            AssertionError: they disagree.
        """
        lines = [(adapter, lane, line) for adapter, group in self._groups.items() for lane, line in group.lines.items()]
        waiting = [entry for _, _, line in lines for entry in line.heap if entry.waiting]
        assert len(waiting) == len(self.entries) == sum(group.waiting for group in self._groups.values())
        assert all(self.entries[entry.item] is entry for entry in waiting)
        assert sum(entry.waiting for entry in self._by_age) == len(waiting)
        for adapter, lane, line in lines:
            head = line.head()
            assert head is not None
            assert lane.lines[adapter] is line
            assert lane is self.front or self._lanes[head.account.name, lane.head_start] is lane
            assert line.removed == sum(not entry.waiting for entry in line.heap)
            if adapter is not None and adapter not in self.active:
                assert (head.number, adapter) in lane.idle
                assert lane.ranked or lane is self.front
        assert sum(len(lane.lines) for lane in (self.front, *self._lanes.values())) == len(lines)
