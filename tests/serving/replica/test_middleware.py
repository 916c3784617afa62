"""The replica's HTTP edge, in front of an application that says what reached it."""

import asyncio
import json

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.choice import CHOICE_HEADER
from serving.replica.admission import Admission
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.request_metrics import ReplicaMetrics
from tests.serving.replica.middleware_client import NAMES, SECRET, choice, echo, send


def test_auto_becomes_the_chosen_learnware_and_the_headers_say_so(app, registry):
    response = send(app, {"model": "auto", "messages": [{"role": "user", "content": "é😀"}]}, choice())
    seen = json.loads(response.json()["body"])
    assert seen == {"model": "finance-tfns", "messages": [{"role": "user", "content": "é😀"}]}
    assert int(response.json()["length"]) == len(response.json()["body"])
    assert response.headers["x-learnware"] == "finance-tfns"
    assert response.headers["x-learnware-reason"] == "matched"
    assert response.headers["x-learnware-score"] == "0.8750"
    assert response.headers["x-learnware-route-ms"] == "0.420"
    assert (
        registry.get_sample_value("learnware_requests_total", {"learnware": "finance-tfns", "reason": "matched"}) == 1
    )


def test_a_streamed_answer_has_the_headers_too(app):
    response = send(app, {"model": "auto"}, choice(), "?stream=1")
    assert response.text == "one two"
    assert response.headers["x-learnware"] == "finance-tfns"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "base:no-choice"),
        (choice(secret=b"x" * 32), "base:no-choice"),
        ({CHOICE_HEADER: "finance-tfns"}, "base:no-choice"),
        (choice(learnware=None, reason="base:low-confidence"), "base:low-confidence"),
        (choice(learnware="withdrawn-yesterday"), "base:not-served"),
    ],
)
def test_auto_without_a_usable_choice_is_answered_by_the_base(app, registry, headers, reason):
    response = send(app, {"model": "auto"}, headers)
    assert json.loads(response.json()["body"])["model"] == "base-8b"
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", reason)
    assert registry.get_sample_value("learnware_fallbacks_total", {"reason": reason}) == 1


@pytest.mark.parametrize("model", ["finance-tfns", "base-8b"])
def test_a_named_model_is_passed_on_as_it_came(app, model):
    raw = b'{ "model":"' + model.encode() + b'" , "x":1e400}'
    response = send(app, raw, choice("healthcare-pubmedqa"))
    assert response.json()["body"].encode() == raw
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == (model, "named")
    assert "x-learnware-score" not in response.headers


def test_an_unknown_model_gets_a_404_that_names_close_ids(app):
    response = send(app, {"model": "finance-tfnz"})
    error = response.json()["error"]
    assert response.status_code == 404
    assert error["code"] == "model_not_found"
    assert "finance-tfns" in error["message"]


def test_a_request_without_a_model_goes_to_the_base(app):
    assert send(app, {"messages": []}).headers["x-learnware-reason"] == "base:no-model"


@pytest.mark.parametrize("raw", [b"", b"not json", b"[1]", b'{"model": 5}'])
def test_a_body_that_is_no_request_reaches_the_application_unchanged(app, raw):
    response = send(app, raw)
    assert response.json()["body"].encode("latin-1") == raw
    assert "x-learnware" not in response.headers


def test_a_replica_is_ready_once_a_choice_has_reached_it_or_after_a_minute(registry):
    now = 0.0
    inner = Starlette(
        routes=[
            Route("/v1/chat/completions", echo, methods=["POST"]),
            Route("/v1/models", echo),
            Route("/health", echo),
        ]
    )

    def replica():
        return LearnwareMiddleware(
            inner,
            admission=Admission(NAMES),
            secret=SECRET,
            metrics=ReplicaMetrics(CollectorRegistry()),
            clock=lambda: now,
        )

    def ready(app):
        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://replica") as client:
                return {(await client.get(path)).status_code for path in ("/v1/models", "/health")}

        return asyncio.run(ask())

    app = replica()
    assert ready(app) == {503}
    send(app, {"model": "auto"})
    assert ready(app) == {503}
    send(app, {"model": "auto"}, choice())
    assert ready(app) == {200}
    app = replica()
    now = 61.0
    assert ready(app) == {200}


def test_a_body_that_is_not_text_is_refused(app):
    response = send(app, b'{"model": "auto", "x": "\xff"}')
    assert response.status_code == 400
    assert "UTF-8" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "named", "answers", "reason"),
    [
        ({"model": "auto"}, None, "finance-tfns", "matched"),
        ({"model": "healthcare-pubmedqa"}, None, "healthcare-pubmedqa", "named"),
        ({}, None, "base-8b", "base:no-model"),
        ({}, "finance-tfns", "finance-tfns", "named"),
        ({"model": "auto"}, "healthcare-pubmedqa", "healthcare-pubmedqa", "named"),
    ],
)
def test_sagemakers_header_carries_the_model_that_answers(registry, fields, named, answers, reason):
    """vLLM writes it over the body's `model`."""

    async def overwritten(request: Request):
        return JSONResponse(request.headers.getlist("x-amzn-sagemaker-adapter-identifier"))

    inner = Starlette(routes=[Route("/invocations", overwritten, methods=["POST"])])
    app = LearnwareMiddleware(inner, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry))
    header = {} if named is None else {"X-Amzn-SageMaker-Adapter-Identifier": named}
    response = send(app, fields, {**choice(), **header}, path="/invocations")
    assert response.json() == [answers]
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == (answers, reason)
    unknown = send(app, fields, {"X-Amzn-SageMaker-Adapter-Identifier": "withdrawn"}, path="/invocations")
    assert unknown.status_code == 404


@pytest.mark.parametrize("model", ["auto", "finance-tfns", None, 5])
@pytest.mark.parametrize(
    "fields",
    [
        {"logprob_token_ids": [1], "logprobs": True},
        {"logprob_token_ids": []},
        {"query": "a", "items": ["b"], "label_token_ids": [1, 2]},
        {"token_ids": [1], "sampling_params": {"logprob_token_ids": [1]}},
    ],
)
def test_logprobs_of_listed_tokens_are_refused_since_they_spoil_those_of_others(app, model, fields):
    response = send(app, {"model": model, **fields}, choice())
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "listed tokens" in response.json()["error"]["message"]
    kept = {"model": model, "logprobs": True, "top_logprobs": 5, "logprob_token_ids": None, "sampling_params": 3}
    assert send(app, kept, choice()).status_code == 200


def test_a_client_that_hangs_up_while_sending_is_dropped_and_one_that_hangs_up_later_is_passed_on(registry):
    seen = []

    async def inner(scope, receive, send):
        seen.append(await receive())
        seen.append(await receive())

    app = LearnwareMiddleware(inner, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": [(b"content-type", b"application/json")],
    }

    async def run(messages):
        async def receive():
            return messages.pop(0)

        async def send(message):
            raise AssertionError(message)

        await app(scope, receive, send)

    asyncio.run(run([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]))
    assert seen == []
    asyncio.run(
        run([{"type": "http.request", "body": b'{"model":"base-8b"}', "more_body": False}, {"type": "http.disconnect"}])
    )
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]
