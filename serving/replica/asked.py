"""How much a request asks for, read from its body by the fields of its path: answers, prompts, tokens.

Values of a wrong type count as not given: vLLM's own validation refuses them. Numbers in strings count as numbers,
since pydantic takes them as such.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

CHAT_PATH = "/v1/chat/completions"
BATCH_PATH = "/v1/chat/completions/batch"
COMPLETIONS_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"
GENERATE_PATH = "/inference/v1/generate"
SCORING_PATH = "/generative_scoring"
SAGEMAKER_PATH = "/invocations"
"""Path of a chat or completion body as SageMaker sends it."""

SAMPLING = "sampling_params"
"""Field of a body that holds vLLM's own sampling parameters, at `GENERATE_PATH`."""
COMPLETION_TOKENS = 16
"""Tokens of an answer at `/v1/completions` where the client says nothing (vLLM 0.29 follows OpenAI)."""
SCORED_TOKENS = 1
"""Tokens that a scored item takes."""
BYTES_PER_TOKEN = 4
"""Bytes of a body for one token of its prompt, for an estimate before it is tokenized: what OpenAI's own estimate
takes."""
USUAL_ANSWER = 256
"""Tokens that an answer without a limit is taken to need, until it is known."""


class Asked(NamedTuple):
    """The answers, prompts and tokens that one request asks for."""

    choices: int
    """Answers for each prompt."""
    prompts: int
    max_tokens: int | None
    """Most tokens of one answer; None where nothing bounds it."""
    is_explicit: bool
    """Whether the client said so."""
    token_fields: tuple[str, ...]
    """Fields that bound an answer's tokens, the one that counts first; inside `SAMPLING` where the path has it."""

    @property
    def places(self) -> int:
        """Number of sequences."""
        return self.choices * self.prompts

    def tokens(self, body_bytes: int) -> int:
        """Returns an estimate of the tokens that the request takes, prompts included."""
        answer = USUAL_ANSWER if self.max_tokens is None else self.max_tokens
        return body_bytes // BYTES_PER_TOKEN + self.places * answer


def asked(path: str, payload: Mapping[str, Any]) -> Asked:
    """Reads what the body of a request to one of `serving.names.GENERATING_PATHS` asks for."""
    sampling = payload.get(SAMPLING)
    places = [payload, *([sampling] if isinstance(sampling, dict) else [])]
    choices = max((whole(place.get(field)) or 1 for place in places for field in ("n", "best_of")), default=1)
    fields = _token_fields(path)
    holder = places[-1] if path == GENERATE_PATH else payload
    given = [number for field in fields if (number := whole(holder.get(field))) is not None]
    limit = given[0] if given else _limit_of_none(path, payload)
    bound = None if limit is None else max(0, limit)
    return Asked(max(1, choices), _prompts(path, payload), bound, bool(given), fields)


def whole(value: object) -> int | None:
    """Returns the number that pydantic makes of a value where it expects a whole one; None where it refuses it."""
    if not isinstance(value, int | float | str):
        return None
    try:
        return int(value)
    except (ValueError, OverflowError):
        pass
    try:
        number = float(value)
        return int(number) if number.is_integer() else None
    except (ValueError, OverflowError):
        return None


def _token_fields(path: str) -> tuple[str, ...]:
    if path == SCORING_PATH:
        return ()
    if path == RESPONSES_PATH:
        return ("max_output_tokens",)
    return ("max_completion_tokens", "max_tokens") if path in _CHATS else ("max_tokens",)


_CHATS = frozenset({CHAT_PATH, BATCH_PATH, SAGEMAKER_PATH})


def _limit_of_none(path: str, payload: Mapping[str, Any]) -> int | None:
    """Returns the tokens of an answer where the client says nothing."""
    if path == SCORING_PATH:
        return SCORED_TOKENS
    if path == COMPLETIONS_PATH or (path == SAGEMAKER_PATH and "messages" not in payload):
        return COMPLETION_TOKENS
    return None


def _prompts(path: str, payload: Mapping[str, Any]) -> int:
    # SageMaker's path takes every kind of body, and vLLM goes by what validates: the most of all readings counts.
    numbers = [1]
    if path in (SCORING_PATH, SAGEMAKER_PATH):
        numbers.append(_number(payload.get("items")))
    if path == BATCH_PATH:
        numbers.append(_number(payload.get("messages")))
    if path in (COMPLETIONS_PATH, SAGEMAKER_PATH):
        numbers.append(_number(payload.get("prompt")) + _number(payload.get("prompt_embeds")))
    return max(numbers)


def _number(prompts: object) -> int:
    """Returns the number of prompts in a field: a list of token ids is one."""
    if prompts is None:
        return 0
    if not isinstance(prompts, list) or set(map(type, prompts)) == {int}:
        return 1
    return len(prompts)
