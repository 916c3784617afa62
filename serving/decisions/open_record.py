"""The replica's half of a record while its request runs.

The outermost middleware opens it (`serving.replica.recording`), the ones inside note the model that answers, and the
meters of the admission gate (`serving.paging.usage`) join it, since they run in the request's context.
"""

import time
from contextvars import ContextVar
from typing import Any, Protocol

from router.choice import RoutedChoice

MODEL_CHARS = 256
"""Characters that a record keeps of the model that a request names."""
TEXT_CHARS = 16_384
"""Characters that are kept of a prompt (its end) and of an answer (its beginning). A half carries up to twice as
many of each: they are cut after they were redacted, so that nothing is kept of what the cut would split."""


class Run(Protocol):
    """One run of the engine for the request, as its meter knows it."""

    @property
    def came(self) -> float:
        """Monotonic time at which it came to the gate."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt so far."""

    @property
    def generated_tokens(self) -> int:
        """Tokens of its answers so far."""

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the gate to the first token; None when there was none."""

    @property
    def queue_s(self) -> float | None:
        """Seconds of waiting for the adapter and for a place in the batch; None when unknown."""


class OpenRecord:
    """The facts of one request that are known so far."""

    __slots__ = (
        "_answers",
        "_answers_chars",
        "choice",
        "gathers_text",
        "keeps_text",
        "learnware",
        "model",
        "path",
        "prompt",
        "reason",
        "request_id",
        "runs",
        "started",
        "tenant",
        "tier",
        "time",
        "trace",
        "version",
    )

    def __init__(self, request_id: str, tenant: str, path: str, trace: str | None, keeps_text: bool) -> None:
        """Opens the record of a request that comes now."""
        self.request_id, self.tenant, self.path, self.trace = request_id, tenant, path, trace
        self.keeps_text = self.gathers_text = keeps_text
        self.started, self.time = time.monotonic(), time.time()
        self.model: str | None = None
        self.learnware: str | None = None
        self.version: str | None = None
        self.reason: str | None = None
        self.choice: RoutedChoice | None = None
        self.tier: str | None = None
        self.runs: list[Run] = []
        self.prompt: str | None = None
        self._answers: dict[tuple[int, int], list[str]] = {}
        self._answers_chars = 0

    def answered_by(self, learnware: str, version: str | None, reason: str, choice: RoutedChoice | None) -> None:
        """Notes the answering model, its version's engine name (None: the base model), and why it answers."""
        self.learnware, self.version, self.reason, self.choice = learnware, version, reason, choice

    def note_text(self, run: Run, output: Any, incremental: bool) -> None:
        """Takes the text of one of a run's outputs (vLLM's `RequestOutput`), until there are twice `TEXT_CHARS`
        characters: what is kept is cut after it was redacted."""
        sequences = getattr(output, "outputs", ())
        for sequence in sequences if isinstance(sequences, list) else ():
            text = getattr(sequence, "text", "")
            if not text:
                continue
            pieces = self._answers.setdefault((id(run), sequence.index), [])
            if not incremental:
                self._answers_chars -= sum(map(len, pieces))
                pieces.clear()
            room = 2 * TEXT_CHARS - self._answers_chars
            if room > 0:
                pieces.append(text[:room])
                self._answers_chars += len(pieces[-1])

    @property
    def answer(self) -> str:
        """The text of the answers so far, at most twice `TEXT_CHARS` characters; empty unless `gathers_text`."""
        return "\n".join("".join(pieces) for pieces in self._answers.values())

    def part(self, status: int | None, *, stream: bool, complete: bool, replica: str) -> dict[str, Any]:
        """Returns the replica's half of the record, for JSON, of a request that ends now."""
        choice, runs, seconds = self.choice, self.runs, time.monotonic() - self.started
        firsts = [run.came - self.started + first for run in runs if (first := run.first_token_s) is not None]
        waits = [wait for run in runs if (wait := run.queue_s) is not None]
        part: dict[str, Any] = {
            "id": self.request_id,
            "decision": None if choice is None else choice.id,
            "time": self.time,
            "tenant": self.tenant,
            "path": self.path,
            "model": None if self.model is None else self.model[:MODEL_CHARS],
            "learnware": self.learnware,
            "version": self.version,
            "reason": self.reason,
            "score": None if choice is None else round(choice.score, 4),
            "status": status,
            "stream": stream,
            "complete": complete,
            "replica": replica,
            "tier": None if self.version is None else self.tier,
            "tokens": {
                "prompt": sum(run.prompt_tokens for run in runs),
                "generated": sum(run.generated_tokens for run in runs),
            },
            # vLLM counts a whole answer's first token from before the gate, so the sum may be a little long
            "ttft_s": round(min(*firsts, seconds), 4) if firsts else None,
            "seconds": round(seconds, 4),
            "queue_s": round(max(waits), 4) if waits else None,
            "route_ms": None if choice is None else choice.milliseconds,
            "trace": self.trace,
        }
        if self.keeps_text:
            part["text"] = {"prompt": self.prompt, "answer": self.answer}
        return part


open_record: ContextVar[OpenRecord | None] = ContextVar("open_record", default=None)
"""The record of the running request; None outside of one, and where nothing is recorded."""
