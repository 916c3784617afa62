"""Malformed bodies: the same for a seed, on every path, mostly bad, and with every field that vLLM's requests have."""

import importlib
import json
import re
from collections import Counter

import pytest

from benchmarks.chaos import bodies
from benchmarks.chaos.bodies import APIS, DEEP, WRONG, malformed
from serving.names import GENERATING_PATHS

COUNT = 2_000
MADE = [malformed(3, number) for number in range(COUNT)]


def test_a_seed_and_a_number_give_the_same_body_again():
    assert MADE[:200] == [malformed(3, number) for number in range(200)]
    assert [one.data for one in MADE[:200]] != [malformed(4, number).data for number in range(200)]


def test_every_path_that_generates_and_those_of_market_and_tasks_get_bodies():
    paths = Counter(one.api.path for one in MADE)
    assert set(GENERATING_PATHS) < set(paths)
    assert {"/v1/learnwares", "/v1/task-specs", "/v1/route"} < set(paths)
    assert min(paths.values()) >= COUNT // len(APIS) - 1


def test_bodies_are_bounded_and_spoilt_in_many_ways():
    assert max(len(one.data) for one in MADE) < 400_000
    kinds = {int(number) for one in MADE for number in re.findall(r"of kind (\d+)", one.how)}
    assert kinds == set(range(len(WRONG)))
    assert len({one.how.rpartition("; ")[2] for one in MADE if "; " in one.how}) >= 14
    assert any(b"[" * DEEP in one.data for one in MADE)


def is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def test_some_bodies_are_no_json_and_most_are():
    share = sum(is_json(one.data) for one in MADE) / COUNT
    assert 0.5 < share < 0.95


def test_no_body_changes_a_learnware_that_is_there():
    for one in MADE:
        if one.api.path.startswith("/v1/learnwares/"):
            assert "/no-such-learnware" in one.api.path


def test_the_good_bodies_ask_for_few_tokens():
    for api in APIS:
        said = json.dumps(api.good)
        for asked in re.findall(r'"max_\w*tokens": (\d+)', said):
            assert int(asked) <= 2


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("module", "name", "path"),
    [
        ("vllm.entrypoints.openai.chat_completion.protocol", "ChatCompletionRequest", "/v1/chat/completions"),
        ("vllm.entrypoints.openai.completion.protocol", "CompletionRequest", "/v1/completions"),
        ("vllm.entrypoints.openai.responses.protocol", "ResponsesRequest", "/v1/responses"),
        ("vllm.entrypoints.anthropic.protocol", "AnthropicMessagesRequest", "/v1/messages"),
        ("vllm.entrypoints.scale_out.token_in_token_out.protocol", "GenerateRequest", "/inference/v1/generate"),
    ],
)
def test_the_grammar_has_every_field_of_vllms_request(module: str, name: str, path: str):
    fields = set(getattr(importlib.import_module(module), name).model_fields)
    api = next(api for api in bodies.APIS if api.path == path)
    assert fields - set(api.good) - set(api.more) == set()
