"""The `openai` Python client, as a user would point it at the stack."""

import itertools
import json
import time

import openai
import pytest

from tests.e2e.support import BASE, QUESTIONS, Stack

pytestmark = pytest.mark.e2e

ASK = [{"role": "user", "content": QUESTIONS[0].text}]


@pytest.fixture(scope="module")
def client(stack: Stack):
    with stack.openai() as opened:
        yield opened


def test_chat(client: openai.OpenAI):
    answer = client.chat.completions.create(model="auto", messages=ASK, max_tokens=8)
    assert answer.model.startswith("finance")
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 8


def test_streaming_with_usage(client: openai.OpenAI):
    stream = client.chat.completions.create(
        model="auto", messages=ASK, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[-1].usage.completion_tokens > 0
    assert all(chunk.model.startswith("finance") for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_the_tokens_of_a_request_that_runs_alone_come_one_after_the_other(client: openai.OpenAI):
    """A step takes a tenth of a second here. Where a process misses that another one has answered, it takes seconds."""
    stream = client.chat.completions.create(
        model="auto", messages=ASK, max_tokens=40, stream=True, extra_body={"ignore_eos": True}
    )
    times = [time.monotonic() for _ in stream]
    assert len(times) > 20
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) < 4.0


def test_completions(client: openai.OpenAI):
    answer = client.completions.create(
        model="auto", prompt=QUESTIONS[2].text, max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert answer.model.startswith("mathematics")
    assert answer.choices[0].text


def test_models(client: openai.OpenAI):
    ids = [model.id for model in client.models.list()]
    assert "auto" in ids
    assert BASE in ids
    assert client.models.retrieve("auto").id == "auto"


def test_several_choices(client: openai.OpenAI):
    answer = client.chat.completions.create(model="auto", messages=ASK, max_tokens=2, n=3, temperature=1.0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_logprobs(client: openai.OpenAI):
    answer = client.chat.completions.create(model="auto", messages=ASK, max_tokens=2, logprobs=True, top_logprobs=3)
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 3


def test_stop(client: openai.OpenAI):
    whole = client.completions.create(model=BASE, prompt="1, 2, 3, 4,", max_tokens=12, temperature=0).choices[0].text
    assert "6" in whole
    cut = client.completions.create(model=BASE, prompt="1, 2, 3, 4,", max_tokens=12, temperature=0, stop=["6"]).choices[
        0
    ]
    assert "6" not in cut.text
    assert cut.finish_reason == "stop"


def test_a_seed_repeats_a_sampled_answer(client: openai.OpenAI):
    def ask(seed: int) -> str:
        answer = client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "Tell me a story."}],
            max_tokens=12,
            temperature=1.5,
            seed=seed,
        )
        return answer.choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(5)}) > 1


def test_a_forced_tool_call(client: openai.OpenAI):
    tool = {
        "type": "function",
        "function": {
            "name": "get_price",
            "description": "Price of a share",
            "parameters": {
                "type": "object",
                "properties": {"up": {"type": "boolean"}},
                "required": ["up"],
                "additionalProperties": False,
            },
        },
    }
    answer = client.chat.completions.create(
        model="auto",
        messages=ASK,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "get_price"}},
        max_tokens=100,
        temperature=0,
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_price"
    assert set(json.loads(call.function.arguments)) == {"up"}


def test_tools_may_be_offered(client: openai.OpenAI):
    tool = {"type": "function", "function": {"name": "noop", "parameters": {"type": "object", "properties": {}}}}
    answer = client.chat.completions.create(model="auto", messages=ASK, tools=[tool], max_tokens=8)
    assert answer.model.startswith("finance")


def test_a_json_schema_is_kept_to(client: openai.OpenAI):
    schema = {
        "type": "object",
        "properties": {"sentiment": {"enum": ["positive", "neutral", "negative"]}},
        "required": ["sentiment"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="auto",
        messages=ASK,
        max_tokens=40,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "label", "schema": schema, "strict": True}},
    )
    assert json.loads(answer.choices[0].message.content)["sentiment"] in {"positive", "neutral", "negative"}


def test_errors_have_the_clients_own_classes(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="finance-tfns"):
        client.chat.completions.create(model="finance-tfnz", messages=ASK)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="auto", messages=ASK, temperature=-1)
    with pytest.raises(openai.BadRequestError, match="context length"):
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "word " * 5000}])
