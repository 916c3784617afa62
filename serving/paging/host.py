"""A cache of adapters within a budget in bytes, which evicts the adapter of least worth first.

An adapter's worth is GreedyDual-Size-Frequency (Cherkasova 1998, HPL-98-69R1): `L + uses · cost / bytes`, with its load
time as the cost. L is the worth of the adapter evicted last, so that one which was used often long ago is evicted in
the end.
"""

import heapq
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Held(Generic[V]):
    value: V
    size: int
    cost: float
    worth: float
    uses: int = 1


class HostCache(Generic[K, V]):
    """A cache by bytes. Leased entries are never evicted: a request that the engine was given needs its adapter.

    It is not thread-safe; `serving.paging.tier` locks around it.
    """

    def __init__(self, budget: int) -> None:
        """Makes an empty cache of `budget` bytes.

        Raises:
            ValueError: the budget is less than one byte.
        """
        if budget < 1:
            raise ValueError(f"the budget must be at least one byte, not {budget}")
        self.budget = budget
        self.used = 0
        self.hits = self.misses = self.evictions = 0
        self._held: dict[K, _Held[V]] = {}
        self._leases: dict[K, int] = {}
        self._order: list[tuple[float, int, K]] = []
        """A heap of (worth, number, key); entries whose worth is out of date are dropped as they come up."""
        self._pushed = 0
        self._floor = 0.0

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def sizes(self) -> dict[K, int]:
        """Returns the bytes of each cached value, by key."""
        return {key: held.size for key, held in self._held.items()}

    def size(self, key: K) -> int:
        """Returns the bytes of the key's value; 0 when none is cached."""
        held = self._held.get(key)
        return held.size if held is not None else 0

    def get(self, key: K) -> V | None:
        """Returns the key's value without counting a use; None when none is cached."""
        held = self._held.get(key)
        return held.value if held is not None else None

    def use(self, key: K) -> bool:
        """Counts a request for the key as a hit or a miss; returns whether it was a hit."""
        held = self._held.get(key)
        if held is None:
            self.misses += 1
            return False
        self.hits += 1
        held.uses += 1
        self._value_anew(key, held)
        return True

    def make_room(self, size: int) -> bool:
        """Evicts until `size` bytes are free. Returns False, and evicts nothing, when leases leave too little."""
        free = self.budget - self.used
        if free < size:
            leased = sum(self._held[key].size for key in self._leases if key in self._held)
            if self.budget - leased < size:
                return False
        spared = []
        while self.budget - self.used < size:
            item = heapq.heappop(self._order)
            worth, _, key = item
            held = self._held.get(key)
            if held is None or held.worth != worth:
                continue
            if key in self._leases:
                spared.append(item)
                continue
            self._floor = worth
            self.evictions += 1
            self._forget(key)
        for item in spared:
            heapq.heappush(self._order, item)
        return True

    def put(self, key: K, value: V, size: int, cost: float) -> None:
        """Caches a value for which there is room (`make_room`); `cost` is its load time in seconds.

        Raises:
            ValueError: there is no room, or the key is cached already.
        """
        if key in self._held:
            raise ValueError(f"{key!r} is held already")
        if self.used + size > self.budget:
            raise ValueError(f"{size} bytes do not fit: {self.used} of {self.budget} are used")
        held = self._held[key] = _Held(value, size, cost, 0.0)
        self.used += size
        self._value_anew(key, held)

    def remove(self, key: K) -> bool:
        """Drops the value, even a leased one; returns False when there is none."""
        if key not in self._held:
            return False
        self._forget(key)
        return True

    def lease(self, key: K) -> None:
        """Keeps the key from being evicted, even before it is cached, until `release` was called as often as
        `lease`."""
        self._leases[key] = self._leases.get(key, 0) + 1

    def release(self, key: K) -> None:
        """Gives one lease of the key back.

        Raises:
            KeyError: the key is not leased.
        """
        self._leases[key] -= 1
        if not self._leases[key]:
            del self._leases[key]

    @property
    def leased(self) -> frozenset[K]:
        """Keys with at least one lease."""
        return frozenset(self._leases)

    def _forget(self, key: K) -> None:
        self.used -= self._held.pop(key).size

    def _value_anew(self, key: K, held: _Held[V]) -> None:
        held.worth = self._floor + held.uses * held.cost / max(1, held.size)
        self._pushed += 1
        heapq.heappush(self._order, (held.worth, self._pushed, key))
        if len(self._order) > 4 * len(self._held) + 64:
            self._order = [(one.worth, i, other) for i, (other, one) in enumerate(self._held.items())]
            self._pushed = len(self._order)
            heapq.heapify(self._order)

    def check_integrity(self) -> None:
        """Checks the tables against each other.

        Raises:
            AssertionError: they disagree.
        """
        assert self.used == sum(held.size for held in self._held.values()) <= self.budget
        assert all(count > 0 for count in self._leases.values())
        ordered = {(key, worth) for worth, _, key in self._order}
        assert all((key, held.worth) in ordered for key, held in self._held.items())
