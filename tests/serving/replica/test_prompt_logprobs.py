"""Requests for log-probabilities of the prompt never meet an adapter of `lm_head` in one batch."""

import asyncio
import warnings
from typing import Any

import pytest

from serving.replica import prompt_logprobs
from serving.replica.prompt_logprobs import PromptLogprobs, asks_for_them
from specs.errors import InvalidInput

CHAT, COMPLETIONS, TOKENS = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate"
ASKING = [
    (CHAT, {"prompt_logprobs": 1}),
    (CHAT, {"prompt_logprobs": 0}),
    (CHAT, {"prompt_logprobs": "2"}),
    (CHAT, {"prompt_logprobs": -1}),
    (COMPLETIONS, {"prompt_logprobs": 5}),
    (COMPLETIONS, {"echo": True, "logprobs": 1}),
    (COMPLETIONS, {"echo": "true", "logprobs": 0}),
    (COMPLETIONS, {"echo": 1, "logprobs": "3"}),
    (CHAT, {"echo": True}),
    (CHAT, {"echo": True, "top_logprobs": 4, "logprobs": True}),
    (TOKENS, {"sampling_params": {"prompt_logprobs": 1}}),
]
NOT_ASKING = [
    (CHAT, {}),
    (CHAT, {"logprobs": True, "top_logprobs": 5}),
    (CHAT, {"prompt_logprobs": None}),
    (CHAT, {"echo": False, "top_logprobs": 3}),
    (CHAT, {"echo": True, "top_logprobs": None}),
    (COMPLETIONS, {"logprobs": 5}),
    (COMPLETIONS, {"echo": True}),
    (COMPLETIONS, {"echo": "false", "logprobs": 2}),
    (COMPLETIONS, {"echo": 0, "logprobs": 2}),
    (TOKENS, {"sampling_params": {"logprobs": 1}}),
    (TOKENS, {"sampling_params": "x"}),
]


@pytest.mark.parametrize(("path", "body"), ASKING)
def test_what_asks_for_them(path: str, body: dict[str, Any]) -> None:
    assert asks_for_them(path, body)


@pytest.mark.parametrize(("path", "body"), NOT_ASKING)
def test_what_does_not(path: str, body: dict[str, Any]) -> None:
    assert not asks_for_them(path, body)


@pytest.mark.parametrize(("path", "body"), [pair for pair in ASKING + NOT_ASKING if pair[0] != TOKENS])
def test_vllm_reads_a_body_so(path: str, body: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.exceptions import VLLMValidationError

    whole = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | body
    try:
        if path == CHAT:
            request = ChatCompletionRequest(**whole)
        else:
            request = CompletionRequest(**({"model": "m", "prompt": "x"} | body))
    except (ValueError, TypeError, VLLMValidationError):
        return  # refused there, whatever we say
    asked = request.to_sampling_params(16, {}).prompt_logprobs
    assert (asked is not None) <= asks_for_them(path, body)
    assert (asked is not None) == asks_for_them(path, body)


def test_without_such_an_adapter_everybody_may_ask() -> None:
    guard = PromptLogprobs()
    with guard.admit(CHAT, {"prompt_logprobs": 1}):
        pass


async def test_beside_one_nobody_may_until_it_is_gone() -> None:
    guard = PromptLogprobs()
    await guard.exclude("colours@123456789012")
    with pytest.raises(InvalidInput, match=r"while a learnware that adapts lm_head is served \(colours\)"):
        guard.admit(CHAT, {"prompt_logprobs": 1}).__enter__()
    with guard.admit(CHAT, {"logprobs": True}):
        pass
    guard.include("another@1")
    with pytest.raises(InvalidInput):
        guard.admit(COMPLETIONS, {"echo": True, "logprobs": 1}).__enter__()
    guard.include("colours@123456789012")
    with guard.admit(CHAT, {"prompt_logprobs": 1}):
        pass


async def test_an_adapter_that_comes_waits_for_those_that_were_admitted() -> None:
    guard = PromptLogprobs()
    with guard.admit(CHAT, {"prompt_logprobs": 1}), guard.admit(CHAT, {}):
        with guard.admit(COMPLETIONS, {"prompt_logprobs": 1}):
            coming = asyncio.create_task(guard.exclude("colours@1"))
            await asyncio.sleep(0.01)
            assert not coming.done()
        await asyncio.sleep(0.01)
        assert not coming.done()
        with pytest.raises(InvalidInput):  # who comes now is refused already
            guard.admit(CHAT, {"prompt_logprobs": 1}).__enter__()
    await asyncio.wait_for(coming, 1)


async def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_logprobs, "WAIT_S", 0.01)
    guard = PromptLogprobs()
    with guard.admit(CHAT, {"prompt_logprobs": 1}):
        await asyncio.wait_for(guard.exclude("colours@1"), 1)
