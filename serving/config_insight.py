"""The sections of the configuration for whoever runs or teaches a stack: console, decision log, traces, feedback."""

from typing import Annotated, Literal, Self

import regex
from pydantic import Field, field_validator, model_validator

from serving.config_sections import Section, http_url

Collector = Annotated[str, http_url("a collector", "http://127.0.0.1:4318")]
"""URL of an OpenTelemetry collector."""


class ConsoleSettings(Section):
    """The pages in the browser."""

    enabled: bool = Field(
        True,
        description="Whether GET / leads to the console. Its empty pages need no key; what they show is fetched "
        "with a key that stays in the browser's tab.",
    )


class DecisionSettings(Section):
    """The log of decisions: one record for each request that generates."""

    enabled: bool = Field(True, description="Whether decisions are recorded (GET /v1/decisions, POST /v1/feedback).")
    path: str | None = Field(
        None,
        description="File of the log (SQLite); null: decisions.sqlite in the market's folder, or in the cache folder "
        "where there is no market.",
    )
    max_records: int = Field(100_000, ge=1, description="Records that the log keeps; the oldest go first.")
    keep_days: float = Field(30.0, gt=0, description="Days after which a record goes in any case.")
    stdout: bool = Field(False, description="Whether each record is also written to standard output as a JSON line.")
    vectors: bool = Field(
        True,
        description="Whether a record keeps the request's vector (ask and material), by which it can be replayed "
        "against a later market. A vector tells what a request was about, though not its words.",
    )
    prompts: bool = Field(
        False, description="Whether a record keeps the prompt and the answer, after redaction, for prompt_keep_days."
    )
    prompt_keep_days: float = Field(7.0, gt=0, description="Days after which kept prompts and answers are erased.")
    redact: tuple[str, ...] = Field(
        (),
        description="Regular expressions (Python's); what they match in a kept prompt or answer is replaced. E-mail "
        "addresses, telephone numbers, card numbers and keys are replaced in any case.",
    )
    otlp_endpoint: Collector | None = Field(
        None,
        description="URL of an OTLP collector (http/protobuf) that gets each record as a log record, for clusters; "
        "null: none.",
    )

    @field_validator("redact")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns


class TraceSettings(Section):
    """OpenTelemetry traces."""

    otlp_endpoint: Collector | None = Field(
        None, description="URL of an OTLP collector (http/protobuf) for spans; null: no traces."
    )
    sample: float = Field(
        1.0, ge=0, le=1, description="Share of requests without a traceparent header of their own that are traced."
    )
    logs: Literal["text", "json"] = Field(
        "text", description="Form of all processes' logs; json has request and trace ids."
    )


class FeedbackSettings(Section):
    """How POST /v1/feedback changes what is chosen."""

    learn: bool = Field(
        False,
        description="Whether feedback changes what is chosen; else it is kept with its decision and no more. Right "
        "answers teach where decisions.prompts keeps what they answer. Needs market.path, where what is learnt stays.",
    )
    min_pieces: int = Field(5, ge=1, description="Pieces of feedback below which nothing changes.")
    half_life_days: float = Field(30.0, gt=0, description="Days after which a piece of feedback counts half.")
    tenant_share: float = Field(
        0.34,
        gt=0,
        le=1,
        description="Most of the weight that one tenant has in what is known of a learnware.",
    )
    hold_above: float = Field(
        0.25,
        gt=0,
        le=1,
        description="A change of an expected quality by more than this waits until an operator approves it.",
    )
    explore: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="Most of the requests, as a share, that go to a candidate which is nearly as good as the best, to "
        "learn of it.",
    )

    @model_validator(mode="after")
    def _explores_to_learn(self) -> Self:
        if self.explore and not self.learn:
            raise ValueError("feedback.explore needs feedback.learn: without it nothing is learnt from exploring")
        return self
