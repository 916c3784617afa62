"""What a replica serves at this moment, and which of it running requests still use."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple


class Names(NamedTuple):
    """The names that `model` may hold. `learnwares` maps each id to the engine's own name for the version served."""

    base: str
    auto_names: frozenset[str]
    learnwares: Mapping[str, str]

    @property
    def every(self) -> tuple[str, ...]:
        return (*self.auto_names, self.base, *self.learnwares)


class Served:
    """The names, swapped by reference, and the requests that were admitted under each version."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._users: Counter[str] = Counter()
        self._ends: dict[str, asyncio.Event] = {}

    @contextmanager
    def use(self, internal_name: str | None) -> Iterator[None]:
        """Around a request from its admission to the end of its answer; None: it uses no learnware."""
        if internal_name is None:
            yield
            return
        self._users[internal_name] += 1
        try:
            yield
        finally:
            self._users[internal_name] -= 1
            if not self._users[internal_name]:
                del self._users[internal_name]
                if end := self._ends.pop(internal_name, None):
                    end.set()

    async def unused(self, internal_name: str) -> None:
        """Returns when no request uses this version."""
        if self._users[internal_name]:
            await self._ends.setdefault(internal_name, asyncio.Event()).wait()
