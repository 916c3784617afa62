"""What adapter paging is told: it runs in the engine's own processes, which vLLM starts, so it travels as vLLM's
`additional_config`."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

KEY = "paging"


class PagingSettings(NamedTuple):
    """The part `paging` of `additional_config`."""

    patience_s: float = 0.5
    """How long a request may be passed over before an adapter makes room for it. A person notices half a second; the
    steps of an engine take a tenth of it or less."""
    host_bytes: int = 4 << 30
    """Host memory for adapters: fifty of rank 16 over all linear layers of an 8B model."""

    @classmethod
    def of(cls, additional_config: Mapping[str, Any]) -> Self:
        """Raises TypeError for a setting that does not exist."""
        return cls(**additional_config.get(KEY, {}))

    def as_config(self) -> dict[str, Any]:
        """The `additional_config` that `of` reads."""
        return {KEY: self._asdict()}
