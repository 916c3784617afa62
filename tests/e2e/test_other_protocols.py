"""`auto` beside the chat route: OpenAI's responses, Anthropic's messages, and vLLM's other paths that generate."""

import json
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.support import BASE, QUESTIONS, Stack

pytestmark = pytest.mark.e2e

HAIKU = "Write a haiku"
INSTRUCTION = "Say whether the sentiment of the financial news is positive, neutral or negative."
NEWS = "Net sales fell to EUR 2.1 mn from EUR 3.4 mn."
"""Says nothing of what is asked: alone, the base model answers it."""


def responses(http: httpx.Client, given: object, **fields: object) -> httpx.Response:
    return http.post("/v1/responses", json={"model": "auto", "input": given, "max_output_tokens": 4, **fields})


def message(http: httpx.Client, content: object, **fields: object) -> httpx.Response:
    """Anthropic's form."""
    messages = [{"role": "user", "content": content}]
    return http.post("/v1/messages", json={"model": "auto", "messages": messages, "max_tokens": 4, **fields})


def items(text: str) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]


def blocks(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


FORMS = {
    "responses, a text": lambda http, text, **fields: responses(http, text, **fields),
    "responses, items": lambda http, text, **fields: responses(http, items(text), **fields),
    "messages, a text": lambda http, text, **fields: message(http, text, **fields),
    "messages, blocks": lambda http, text, **fields: message(http, blocks(text), **fields),
}
INSTRUCTED = {
    "responses, a text": lambda http: responses(http, NEWS, instructions=INSTRUCTION),
    "responses, items": lambda http: responses(http, items(NEWS), instructions=INSTRUCTION),
    "messages, a text": lambda http: message(http, NEWS, system=INSTRUCTION),
    "messages, blocks": lambda http: message(http, blocks(NEWS), system=blocks(INSTRUCTION)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_question_is_answered_by_a_learnware_of_its_domain_and_a_haiku_by_the_base(http: httpx.Client, form: str):
    for question in QUESTIONS:
        response = FORMS[form](http, question.text)
        assert response.status_code == 200, response.text
        assert response.headers["x-learnware"].startswith(question.domain)
        assert response.headers["x-learnware-reason"] == "matched"
        assert response.json()["model"] == response.headers["x-learnware"]
    response = FORMS[form](http, HAIKU)
    assert (response.json()["model"], response.headers["x-learnware"]) == (BASE, BASE)


@pytest.mark.parametrize("form", FORMS)
def test_a_streamed_answer_names_the_learnware_too(http: httpx.Client, form: str):
    response = FORMS[form](http, QUESTIONS[0].text, stream=True)
    learnware = response.headers["x-learnware"]
    assert learnware.startswith("finance")
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    wholes = [event.get("response") or event.get("message") for event in events]  # at its begin, and at its end
    assert {whole["model"] for whole in wholes if whole} == {learnware}
    assert [event["type"] for event in events][-1] in {"response.completed", "response.incomplete", "message_stop"}


@pytest.mark.parametrize("form", INSTRUCTED)
def test_an_instruction_beside_the_text_is_read(http: httpx.Client, form: str):
    assert FORMS[form](http, NEWS).headers["x-learnware"] == BASE
    assert INSTRUCTED[form](http).headers["x-learnware"].startswith("finance")


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{not json", 400),
        (b'{"model": "auto"}', 400),
        (b'{"model": "auto", "input": 5, "messages": 5, "max_tokens": 4}', 400),
        (b'{"model": "no-such-model", "input": "hi", "messages": [], "max_tokens": 4}', 404),
    ],
    ids=["malformed", "no text", "a wrong type", "an unknown model"],
)
def test_a_bad_body_is_refused_with_an_openai_error(http: httpx.Client, path: str, body: bytes, status: int):
    response = http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    if path == "/v1/messages":
        kind = {400: "invalid_request_error", 404: "not_found_error"}[status]
        assert (response.json()["type"], error["type"]) == ("error", kind)
    else:
        assert {"type", "param", "code"} <= set(error)


def test_the_openai_client_keeps_a_conversation_of_responses_by_sending_it(stack: Stack):
    """No response is kept here: an earlier one cannot be named, so the client sends what was said."""
    with stack.openai() as client:
        first = client.responses.create(model="auto", input=QUESTIONS[0].text, max_output_tokens=4)
        with pytest.raises(openai.NotFoundError, match="not found"):
            client.responses.create(model="auto", input="And the next one?", previous_response_id=first.id)
        said = [{"role": "user", "content": QUESTIONS[0].text}, *first.output]
        said.append({"role": "user", "content": "And the next one?"})
        raw = client.responses.with_raw_response.create(model="auto", input=said, max_output_tokens=4)
    assert raw.headers["x-learnware-reason"] == "session"
    assert raw.parse().model == first.model


def test_token_ids_to_generate_from_are_routed_on(http: httpx.Client):
    for text, start in ((QUESTIONS[0].text, "finance"), (HAIKU, BASE)):
        tokens = http.post("/tokenize", json={"model": "auto", "prompt": text}).json()["tokens"]
        body = {"model": "auto", "token_ids": tokens, "sampling_params": {"max_tokens": 1}}
        response = http.post("/inference/v1/generate", json=body)
        assert response.status_code == 200, response.text
        assert response.headers["x-learnware"].startswith(start)
        assert response.json()["model"] == response.headers["x-learnware"]


def test_what_would_spoil_other_clients_logprobs_is_refused(http: httpx.Client):
    """vLLM would list these tokens to everybody in the batch."""
    scoring = {"query": QUESTIONS[0].text, "items": ["a", "b"], "label_token_ids": [100, 200]}
    chosen = {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "logprob_token_ids": [100]}
    for path, body in (("/generative_scoring", scoring), ("/v1/chat/completions", chosen)):
        response = http.post(path, json={"model": "auto", **body})
        assert response.status_code == 400, response.text
        assert "listed tokens" in response.json()["error"]["message"]


@pytest.mark.parametrize("model", ["auto", "finance-tfns", BASE, None])
@pytest.mark.parametrize("header", [None, "healthcare-pubmedqa"])
def test_sagemakers_path_is_answered_by_whom_its_header_names_or_the_body(
    http: httpx.Client, model: str | None, header: str | None
):
    body = {"messages": [{"role": "user", "content": QUESTIONS[0].text}], "max_tokens": 1}
    headers = {} if header is None else {"X-Amzn-SageMaker-Adapter-Identifier": header}
    response = http.post("/invocations", json=body if model is None else {**body, "model": model}, headers=headers)
    assert response.status_code == 200, response.text
    answered = response.json()["model"]
    assert answered == response.headers["x-learnware"]
    if header is None and model == "auto":
        assert answered.startswith("finance")
    else:
        assert answered == (header or model or BASE)


def test_the_choice_for_these_bodies_is_explained_as_well(http: httpx.Client):
    for body in ({"input": NEWS, "instructions": INSTRUCTION}, {"messages": items(NEWS), "system": INSTRUCTION}):
        explained = http.post("/v1/route", json={"model": "auto", **body}).json()
        assert explained["learnware"].startswith("finance")
