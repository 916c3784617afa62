"""The settings of adapter paging, and what each request tells the scheduler of its tenant. Both run in the engine's own
processes, which vLLM starts: the settings travel in vLLM's `additional_config`, a request's part in the `extra_args` of
its sampling parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from specs.engine_name import split_engine_name

KEY = "paging"
"""Key of the settings in `additional_config`."""

UPCOMING = "upcoming_adapters"
"""Attribute of a step's `SchedulerOutput` by which the scheduler tells the workers which adapters, by number, will be
loaded next."""

EXTRA_ARGS = "learnware"
"""Key of a request's `Share` in the `extra_args` of its sampling parameters."""


class Share(NamedTuple):
    """The tenant of a request and how it stands among others, as `serving.paging.queue.AdapterQueue.add` takes it."""

    tenant: str | None = None
    weight: float = 1.0
    head_start: float = 0.0
    idle: bool = False
    """Whether it is idle work (`serving.paging.idle`), which has no tenant and stands in no order with others."""

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self:
        """Reads the share from a request's `extra_args`; one without it belongs to no tenant, which is one as well."""
        return cls(**(extra_args or {}).get(EXTRA_ARGS, {}))


class PagingSettings(NamedTuple):
    """The part `paging` of `additional_config`."""

    patience_s: float = 0.5
    """Seconds that a request may be passed over before an adapter makes room for it. A person notices half a second;
    the steps of an engine take a tenth of it or less."""
    host_bytes: int = 4 << 30
    """Bytes of host memory for adapters: fifty of rank 16 over all linear layers of an 8B model."""
    pinned: Sequence[str] = ()
    """Ids of learnwares whose adapter keeps its slot once it has one."""

    @classmethod
    def of(cls, additional_config: Mapping[str, Any]) -> Self:
        """Reads the settings from vLLM's `additional_config`.

        Raises:
            TypeError: it holds a setting that does not exist.
        """
        return cls(**additional_config.get(KEY, {}))

    def pins(self, engine_name: str) -> bool:
        """Returns whether the adapter of this engine name keeps its slot once it has one."""
        return split_engine_name(engine_name)[0] in self.pinned

    def as_config(self) -> dict[str, Any]:
        """Returns the `additional_config` that `of` reads."""
        return {KEY: self._asdict()}
