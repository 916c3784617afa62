"""The tokens and the time that each request took from the engine, told by the gate once it has ended."""

import time
from typing import Any, NamedTuple

from serving.access.account import TokenCount
from serving.decisions.open_record import open_record


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
    time of the first token is vLLM's own. It joins the record of the HTTP request that it belongs to."""

    def __init__(self, engine_name: str | None, tenant: str, incremental: bool) -> None:
        self.tokens = TokenCount(incremental)
        self._engine_name = engine_name
        self._tenant = tenant
        self.came = time.monotonic()
        """Monotonic time at which it came to the gate."""
        self._incremental = incremental
        self._entered: float | None = None
        self._first: float | None = None
        self._last: Any = None
        self._record = open_record.get()
        if self._record is not None:
            self._record.runs.append(self)

    def enters(self) -> None:
        """Notes that its adapter is in host memory and the engine gets it."""
        self._entered = time.monotonic()

    def note_output(self, output: Any) -> None:
        """Takes note of an output, which `tokens` has seen."""
        if self._first is None:
            self._first = time.monotonic() - self.came
        self._last = output
        if self._record is not None and self._record.gathers_text:
            self._record.note_text(self, output, self._incremental)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt, 0 before the first output."""
        return self.tokens.prompt or 0

    @property
    def generated_tokens(self) -> int:
        """Tokens of its answers so far."""
        return self.tokens.generated

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the gate to its first token; None when there was none."""
        return self._of_engine("first_token_latency") or self._first

    @property
    def queue_s(self) -> float | None:
        """Seconds that it waited, for its adapter and for a place in the batch; None where the engine does not say."""
        queued, scheduled = self._of_engine("queued_ts"), self._of_engine("scheduled_ts")
        if self._entered is None or not queued or not scheduled:
            return None
        return self._entered - self.came + max(scheduled - queued, 0.0)

    def usage(self) -> Usage:
        """Returns what it took until now."""
        return Usage(
            self._engine_name,
            self._tenant,
            self.tokens.prompt or 0,
            self.tokens.generated,
            time.monotonic() - self.came,
            self.first_token_s,
        )

    def _of_engine(self, name: str) -> float:
        """Returns a figure of vLLM's own (`RequestStateStats`), 0 where it has none."""
        figure: float = getattr(getattr(self._last, "metrics", None), name, 0.0)
        return figure
