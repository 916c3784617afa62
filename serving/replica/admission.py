"""The names that a replica serves now, and the requests that still run under each version."""

import asyncio
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Names(NamedTuple):
    """The names that `model` may hold. `learnwares` maps each served learnware's id to the engine name of its
    version."""

    base: str
    auto_names: frozenset[str]
    learnwares: Mapping[str, str]

    def close_to(self, name: str) -> Sequence[str]:
        """Returns up to three names that a client may have meant by `name`, best first."""
        return difflib.get_close_matches(name, [*self.auto_names, self.base, *self.learnwares], n=3, cutoff=0.4)


class Admission:
    """The served names, swapped by reference, and a count of admitted requests for each version."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._users: Counter[str] = Counter()
        self._ends: dict[str, asyncio.Event] = {}

    @contextmanager
    def use(self, engine_name: str | None) -> Iterator[None]:
        """Counts a request as a user of this version from its admission to the end of its answer; None counts
        nothing."""
        if engine_name is None:
            yield
            return
        self._users[engine_name] += 1
        try:
            yield
        finally:
            self._users[engine_name] -= 1
            if not self._users[engine_name]:
                del self._users[engine_name]
                if end := self._ends.pop(engine_name, None):
                    end.set()

    async def unused(self, engine_name: str) -> None:
        """Returns when no admitted request uses this version any more."""
        if self._users[engine_name]:
            await self._ends.setdefault(engine_name, asyncio.Event()).wait()
