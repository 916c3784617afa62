"""The tokens and the time that each request took from the engine, told by the gate once it has ended."""

import time
from typing import Any, NamedTuple

from serving.access.account import TokenCount


class Usage(NamedTuple):
    """One request of the engine that has ended: finished, or given up."""

    engine_name: str | None
    """Name of the adapter's version; None for the base model."""
    tenant: str
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    """Time from when it came to the gate to its end."""
    first_token_s: float | None
    """Time from when it came to the gate to its first token; None when there was none."""


class Meter:
    """Follows one request from when it comes to the gate. Where the engine puts out nothing but the whole answer, the
    time of the first token is vLLM's own."""

    def __init__(self, engine_name: str | None, tenant: str, incremental: bool) -> None:
        self.tokens = TokenCount(incremental)
        self._engine_name = engine_name
        self._tenant = tenant
        self._came = time.monotonic()
        self._first: float | None = None
        self._last: Any = None

    def note_output(self, output: Any) -> None:
        """Takes note of an output, which `tokens` has seen."""
        if self._first is None:
            self._first = time.monotonic() - self._came
        self._last = output

    def usage(self) -> Usage:
        """Returns what it took until now."""
        latency = getattr(getattr(self._last, "metrics", None), "first_token_latency", 0.0)
        return Usage(
            self._engine_name,
            self._tenant,
            self.tokens.prompt or 0,
            self.tokens.generated,
            time.monotonic() - self._came,
            latency or self._first,
        )
