"""The sections of the configuration for comparing answers: shadow requests, the judge, and what becomes of canaries."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from serving.config_sections import Section, http_url


def _without_query(url: str) -> str:
    if {"?", "#"} & set(url):
        raise ValueError(
            f"must be the URL of an OpenAI-compatible endpoint without a query: a path follows it; not {url!r}"
        )
    return url


Endpoint = Annotated[
    str, http_url("an OpenAI-compatible endpoint", "http://127.0.0.1:8001/v1"), AfterValidator(_without_query)
]
"""URL of an OpenAI-compatible endpoint, below which /chat/completions answers."""


class JudgeSettings(Section):
    """The model that says which of two answers is better. It is sent requests' texts, redacted as kept ones are."""

    url: Endpoint = Field(description="URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8001/v1.")
    model: str = Field(min_length=1, description="The model that is asked there.")
    key_env: str | None = Field(
        None,
        min_length=1,
        description="Environment variable with the endpoint's API key where the stack is started; null: none is sent.",
    )
    timeout_s: float = Field(60.0, gt=0, le=600, description="Seconds that one of its answers may take.")


class ShadowSettings(Section):
    """Requests that are answered a second time by another model, on idle engine time, to compare the two."""

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the ordinary requests that are answered a second time, after their answer and while the "
        "engine has nothing else to do. No client gets or waits for the second answer.",
    )
    against: Literal["next", "base"] = Field(
        "next",
        description="Who answers the second time: the runner-up of the choice (the base model where there is none), or "
        "always the base model. A learnware with a canary is compared with that in any case. What the base model "
        "answered is not compared.",
    )
    most_waiting: int = Field(
        32, ge=1, description="Requests that wait on a replica for their second answer; further ones get none."
    )
    judge: JudgeSettings | None = Field(
        None,
        description="The judge that compares both answers, with the keys url (an OpenAI-compatible endpoint), model, "
        "key_env (the environment variable with its API key) and timeout_s (60 by default); null: none does. Prompts "
        "and answers are sent to it, redacted as kept ones are.",
    )


class CanarySettings(Section):
    """How long a canary answers a share of its learnware's requests, and what decides on it. Answers are compared by
    feedback, by right answers given as feedback, and by the judge (`shadow.judge`), beside the log of decisions:
    without `decisions.enabled` nothing decides."""

    decide: bool = Field(
        True,
        description="Whether canaries are promoted and rolled back by the rule; else it only says what it would do.",
    )
    least_answers: int = Field(
        50,
        ge=1,
        description="Compared answers of a canary below which it is not promoted; a bad one may be rolled back before.",
    )
    most_answers: int = Field(
        800, ge=1, description="Compared answers of a canary after which their mean decides where the rule could not."
    )
    margin: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="Loss of quality, from 0 to 1, that a canary is tested for: one that is worse by less may be "
        "promoted. 800 answers tell a loss of 0.1 from none; half of it takes four times as many.",
    )

    @model_validator(mode="after")
    def _can_end(self) -> Self:
        if self.most_answers < self.least_answers:
            raise ValueError("canary.most_answers must be at least canary.least_answers")
        return self
