"""The room that a prompt leaves for its answer: a longer `max_tokens` is shortened to it where the router chooses, and
refused with the room's size where the client names a model.

vLLM 0.29 refuses a prompt and a `max_tokens` that together exceed `max_model_len` when it tokenizes the prompt, before
its own `get_max_tokens` would shorten the answer. That is the one place that knows the prompt's length, so what a
request tells the tokenization is replaced here, on the three request classes that all generating paths end in. Without
a `max_tokens` nothing changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.exceptions import VLLMValidationError
from vllm.renderers.params import TokenizeParams

from serving.replica.shortening import is_shortened

LIMITED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (ChatCompletionRequest, ("max_completion_tokens", "max_tokens")),
    (CompletionRequest, ("max_tokens",)),
    (ResponsesRequest, ("max_output_tokens",)),
)
"""The request classes, each with the fields that bound its answer, the one that counts first."""


@dataclass(frozen=True)
class RoomParams(TokenizeParams):
    """Parameters of tokenization that tell the room, for a request with `wanted` tokens of answer in `field`."""

    wanted: int = 0
    field: str = "max_tokens"

    def _token_len_check(self, tokenizer: Any, tokens: Any) -> Any:
        total = self.max_total_tokens
        if total is not None and self.max_output_tokens <= total - len(tokens) < self.wanted:
            room = total - len(tokens)
            raise VLLMValidationError(
                f"{self.field}={self.wanted} is more than there is room for: the prompt has {len(tokens)} tokens, and "
                f"prompt and answer together may have {total} (max_model_len). Ask for at most {room}, or leave "
                f"{self.field} out.",
                parameter=self.field,
                value=self.wanted,
            )
        return super()._token_len_check(tokenizer, tokens)


def shorten_answers_to_the_room() -> None:
    """Replaces `build_tok_params` of the request classes, once in a process."""
    for request_class, limits in LIMITED:
        build = cast(Any, request_class).build_tok_params
        if not hasattr(build, "__wrapped__"):
            cast(Any, request_class).build_tok_params = _with_room(build, limits)


def _with_room(build: Callable[..., TokenizeParams], limits: tuple[str, ...]) -> Callable[..., TokenizeParams]:
    def build_tok_params(request: Any, model_config: Any) -> TokenizeParams:
        field, wanted = next(
            ((name, value) for name in limits if (value := request.__dict__[name]) is not None), (limits[0], None)
        )
        if not wanted or wanted < 0:
            return build(request, model_config)
        total = model_config.max_model_len
        open_request = request.model_copy(update=dict.fromkeys(limits, None))
        given = build(open_request, model_config)
        if given.truncate_prompt_tokens is not None:  # the prompt is cut to what the answer leaves
            if wanted < total or not is_shortened():
                return build(request, model_config)
            return build(request.model_copy(update={field: total // 2}), model_config)
        values = {one.name: getattr(given, one.name) for one in fields(TokenizeParams)} | {"max_output_tokens": 1}
        return TokenizeParams(**values) if is_shortened() else RoomParams(**values, wanted=wanted, field=field)

    build_tok_params.__wrapped__ = build  # type: ignore[attr-defined]
    return build_tok_params
