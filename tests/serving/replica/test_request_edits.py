"""What clients send out of habit is taken by vLLM once it is mended, and what means something stays."""

import copy

import pytest

from serving.replica.request_body import read_request
from serving.replica.request_edits import PRIORITY_HEADER, mended

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]

HABITS = [
    {"tools": []},
    {"tools": None},
    {"tools": [], "tool_choice": "auto"},
    {"tools": [], "tool_choice": "none"},
    {"tools": None, "tool_choice": None},
    {"tool_choice": "auto"},
    {"functions": [], "function_call": None},
    {"stream_options": {"include_usage": True}},
    {"stream": False, "stream_options": {"include_usage": True}},
    {"stop": ""},
    {"stop": ["", "END"]},
    {"stop": []},
    {"stop": None},
    {"logit_bias": {}},
    {"user": None, "metadata": None, "store": None, "service_tier": None},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "parallel_tool_calls": True},
    {"reasoning_effort": ""},
    {"reasoning_effort": "default"},
    {"response_format": {}},
    {"cache_salt": ""},
    {"bad_words": None, "echo": None, "min_tokens": None, "ignore_eos": None, "use_beam_search": None},
    {"request_id": None, "include_reasoning": None, "length_penalty": None, "skip_special_tokens": None},
    {"priority": -9},
    {"priority": None},
    {"messages": [{"role": "user", "content": "Hi", "name": None}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
]


@pytest.mark.vllm
@pytest.mark.parametrize("fields", HABITS)
def test_vllm_takes_a_chat_with_what_clients_send_out_of_habit(fields):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    request = ChatCompletionRequest.model_validate(mended(copy.deepcopy(CHAT | fields)))
    request.to_sampling_params(10, {})
    assert request.priority == 0


@pytest.mark.vllm
@pytest.mark.parametrize("fields", [{"n": None}, {"tools": None}, {"stop": ""}, {"stream_options": {}, "echo": None}])
def test_vllm_takes_completions_too(fields):
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    CompletionRequest.model_validate(mended({"model": "auto", "prompt": "Hi"} | fields)).to_sampling_params(10, {})


@pytest.mark.vllm
@pytest.mark.parametrize(
    "fields", [{"tools": None, "tool_choice": None}, {"service_tier": None, "truncation": None}, {"priority": 3}]
)
def test_vllm_takes_responses_too(fields):
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

    request = ResponsesRequest.model_validate(mended({"model": "auto", "input": "Hi"} | fields))
    assert (request.truncation, request.priority) == ("disabled", 0)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": TOOLS, "tool_choice": "auto"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tool_choice": "required"},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stop": ["END"], "reasoning_effort": "low", "response_format": {"type": "json_object"}},
        {"vllm_xargs": {"mine": 1}, "sampling_params": {"extra_args": {"mine": 1}}},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"messages": 5, "stop": 5, "vllm_xargs": 5, "sampling_params": [], "tools": "x", "tool_choice": ["auto"]},
        {"messages": [5, None, {}], "sampling_params": {"extra_args": 5}},
    ],
)
def test_what_means_something_stays_as_it_is(fields):
    payload = CHAT | fields
    assert mended(payload) is payload


def test_what_no_client_may_decide_is_taken_out_and_the_clients_body_is_not_changed():
    payload = {
        "priority": -9,
        "vllm_xargs": {"learnware": {"tenant": "other"}, "mine": 1},
        "sampling_params": {"extra_args": {"learnware": 1, "mine": 1}, "top_k": 1},
    }
    before = copy.deepcopy(payload)
    assert mended(payload) == {"vllm_xargs": {"mine": 1}, "sampling_params": {"extra_args": {"mine": 1}, "top_k": 1}}
    assert payload == before


def test_a_null_model_stays():
    payload = {"model": None, "messages": []}
    assert mended(payload) is payload


async def test_the_header_of_a_priority_does_not_reach_vllm():
    async def receive():
        return {"type": "http.request", "body": b'{"model": "auto"}', "more_body": False}

    kind = (b"content-type", b"application/json")
    scope = {"method": "POST", "path": "/v1/completions", "headers": [(PRIORITY_HEADER, b"-9"), kind]}
    request = await read_request(scope, receive)
    assert request.naming("base-8b").scope["headers"][0] == kind
    assert PRIORITY_HEADER not in dict(request.naming("base-8b").scope["headers"])


@pytest.mark.vllm
def test_the_header_is_the_one_that_vllm_reads():
    from vllm.entrypoints.generate.base import serving

    assert serving.PRIORITY_HEADER.lower().encode() == PRIORITY_HEADER
