"""What a replica serves at this moment, and which of it running requests still use."""

import asyncio
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Names(NamedTuple):
    """The names that `model` may hold. `learnwares` maps each id to the engine's own name for the version served."""

    base: str
    auto_names: frozenset[str]
    learnwares: Mapping[str, str]

    def close_to(self, name: str) -> Sequence[str]:
        """Ids that a client may have meant, best first."""
        return difflib.get_close_matches(name, [*self.auto_names, self.base, *self.learnwares], n=3, cutoff=0.4)


class Admission:
    """The names, swapped by reference, and the requests that were admitted under each version."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self._users: Counter[str] = Counter()
        self._ends: dict[str, asyncio.Event] = {}

    @contextmanager
    def use(self, engine_name: str | None) -> Iterator[None]:
        """Around a request from its admission to the end of its answer; None: it uses no learnware."""
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
        """Returns when no request uses this version."""
        if self._users[engine_name]:
            await self._ends.setdefault(engine_name, asyncio.Event()).wait()
