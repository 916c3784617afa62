"""What adapter paging is told: it runs in the engine's own processes, which vLLM starts, so it travels as vLLM's
`additional_config`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

KEY = "paging"

UPCOMING = "upcoming_adapters"
"""The attribute of a step's `SchedulerOutput` by which the scheduler tells the workers which adapters will be loaded
next, by number."""

VERSION_MARK = "@"
"""Between a learnware's id and its version in the engine's name of its adapter."""


class PagingSettings(NamedTuple):
    """The part `paging` of `additional_config`."""

    patience_s: float = 0.5
    """How long a request may be passed over before an adapter makes room for it. A person notices half a second; the
    steps of an engine take a tenth of it or less."""
    host_bytes: int = 4 << 30
    """Host memory for adapters: fifty of rank 16 over all linear layers of an 8B model."""
    pinned: Sequence[str] = ()
    """Ids of learnwares whose adapter keeps its slot once it has one."""

    @classmethod
    def of(cls, additional_config: Mapping[str, Any]) -> Self:
        """Raises TypeError for a setting that does not exist."""
        return cls(**additional_config.get(KEY, {}))

    def pins(self, name: str) -> bool:
        """Whether an adapter, by its engine name, keeps its slot."""
        return name.partition(VERSION_MARK)[0] in self.pinned

    def as_config(self) -> dict[str, Any]:
        """The `additional_config` that `of` reads."""
        return {KEY: self._asdict()}
