"""The replica's HTTP edge, in front of an application that says what reached it."""

import asyncio
import contextlib
import json

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from router.choice import CHOICE_HEADER, FAILED_HEADER, MATCHED, RESIDENT, RoutedChoice, encode_choice
from serving.replica.admission import Admission, Names
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.prompt_logprobs import PromptLogprobs
from serving.replica.request_metrics import ReplicaMetrics
from specs.errors import AdapterUnavailable

SECRET = b"s" * 32
NAMES = Names(
    "base-8b", frozenset({"auto"}), {"finance-tfns": "finance-tfns@1", "healthcare-pubmedqa": "healthcare-pubmedqa@1"}
)


async def echo(request: Request):
    body = await request.body()
    if request.query_params.get("stream"):

        async def chunks():
            yield b"one "
            yield b"two"

        return StreamingResponse(chunks())
    return JSONResponse({"length": request.headers.get("content-length"), "body": body.decode("latin-1")})


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def app(registry):
    inner = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST", "GET"])])
    return LearnwareMiddleware(inner, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry))


def send(app, payload, headers=None, query="", path="/v1/chat/completions"):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://replica") as client:
            content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            return await client.post(
                f"{path}{query}",
                content=content,
                headers={"content-type": "application/json", **(headers or {})},
            )

    return asyncio.run(ask())


def choice(learnware="finance-tfns", reason="matched", secret=SECRET):
    return {CHOICE_HEADER: encode_choice(RoutedChoice(learnware, reason, 0.875, 0.42), secret)}


def test_auto_becomes_the_chosen_learnware_and_the_headers_say_so(app, registry):
    response = send(app, {"model": "auto", "messages": [{"role": "user", "content": "é\ud800"}]}, choice())
    seen = json.loads(response.json()["body"])
    assert seen == {"model": "finance-tfns", "messages": [{"role": "user", "content": "é\ud800"}]}
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


@pytest.mark.parametrize("raw", [b"", b"not json", b"[1]", b'{"model": 5}', b'{"a":' * 3000])
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


TASK = "task:" + 32 * "a"


def failed(why):
    return {FAILED_HEADER: why}


@pytest.mark.parametrize("model", ["auto", TASK])
@pytest.mark.parametrize(
    ("headers", "status", "code", "reason"),
    [
        ({}, 503, "router_unavailable", "base:no-choice"),
        (choice(secret=b"x" * 32), 503, "router_unavailable", "base:no-choice"),
        (failed("router_non_200"), 503, "router_unavailable", "base:router-unreachable"),
        (failed("router_unreachable"), 429, "router_overloaded", "base:router-timeout"),
        (failed("router_timeout"), 429, "router_overloaded", "base:router-timeout"),
        (choice(None, "base:router-overload"), 429, "router_overloaded", "base:router-overload"),
    ],
)
def test_without_a_choice_the_base_answers_only_where_the_configuration_says_so(
    registry, model, headers, status, code, reason
):
    for base_answers in (True, False):
        app = LearnwareMiddleware(
            echo_app,
            admission=Admission(NAMES),
            secret=SECRET,
            metrics=ReplicaMetrics(CollectorRegistry()),
            base_without_choice=base_answers,
        )
        response = send(app, {"model": model, "messages": []}, headers)
        if base_answers:
            assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", reason)
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
            assert int(response.headers["retry-after"]) >= 1
        assert send(app, {"model": "finance-tfns"}, headers).headers["x-learnware"] == "finance-tfns"
        assert send(app, {"messages": []}, headers).headers["x-learnware-reason"] == "base:no-model"


@pytest.mark.parametrize("reason", ["base:low-confidence", "base:router-deadline", "base:router-error", "base:better"])
def test_a_choice_of_the_base_is_a_choice(registry, reason):
    app = LearnwareMiddleware(
        echo_app, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry), base_without_choice=False
    )
    response = send(app, {"model": "auto"}, choice(None, reason))
    assert (response.status_code, response.headers["x-learnware-reason"]) == (200, reason)


@pytest.mark.parametrize("base_answers", [True, False])
def test_what_generates_nothing_needs_no_choice_and_is_not_counted(registry, base_answers):
    inner = Starlette(routes=[Route("/tokenize", echo, methods=["POST"])])
    app = LearnwareMiddleware(
        inner,
        admission=Admission(NAMES),
        secret=SECRET,
        metrics=ReplicaMetrics(registry),
        base_without_choice=base_answers,
    )
    for model, answers in (("auto", "base-8b"), (TASK, "base-8b"), ("finance-tfns", "finance-tfns")):
        response = send(app, {"model": model, "prompt": "x"}, path="/tokenize")
        assert json.loads(response.json()["body"])["model"] == answers
        assert response.headers["x-learnware"] == answers
    assert response.headers["x-learnware-reason"] == "named"
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert not [sample for sample in samples if sample.name.endswith("_total") and sample.value]


def test_a_task_is_answered_by_the_learnware_chosen_for_it(app):
    response = send(app, {"model": TASK, "messages": []}, choice(reason="task"))
    assert json.loads(response.json()["body"])["model"] == "finance-tfns"
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("finance-tfns", "task")


def test_an_unknown_task_is_a_404_that_says_what_to_do(app):
    response = send(app, {"model": TASK}, choice(None, "base:unknown-task"))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (404, "model_not_found", "invalid_request_error")
    assert f"no task '{TASK}'" in error["message"]
    assert "spec make" in error["message"]
    assert "/v1/task-specs" in error["message"]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "base:no-choice"),
        (choice(None, "base:low-confidence"), "base:low-confidence"),
        (choice(reason="matched"), "base:no-choice"),
        (choice(reason=MATCHED + RESIDENT), "base:no-choice"),
        (choice("withdrawn-yesterday", "task"), "base:not-served"),
    ],
)
def test_a_task_without_a_choice_of_its_own_is_answered_by_the_base(app, headers, reason):
    response = send(app, {"model": TASK}, headers)
    assert json.loads(response.json()["body"])["model"] == "base-8b"
    assert response.headers["x-learnware-reason"] == reason


class Adapters:
    """Stands for the gate: which adapters are held, and one that cannot be loaded."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.seen: list[list[str]] = []

    @contextlib.asynccontextmanager
    async def hold(self, engine_name: str):
        if engine_name == "healthcare-pubmedqa@1":
            raise AdapterUnavailable("The adapter of 'healthcare-pubmedqa@1' could not be loaded: no such file")
        self.held.append(engine_name)
        yield
        self.held.remove(engine_name)

    async def app(self, scope, receive, send):
        self.seen.append(list(self.held))
        await echo_app(scope, receive, send)


echo_app = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"])])


@pytest.mark.parametrize(("model", "held"), [("finance-tfns", ["finance-tfns@1"]), ("base-8b", [])])
def test_an_adapter_is_held_while_its_request_runs(registry, model, held):
    adapters = Adapters()
    app = LearnwareMiddleware(
        adapters.app, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    assert send(app, {"model": model}).status_code == 200
    assert adapters.seen == [held]
    assert adapters.held == []


def test_a_load_failure_fails_its_own_request_with_the_reason(registry):
    adapters, admission = Adapters(), Admission(NAMES)
    app = LearnwareMiddleware(
        adapters.app, admission=admission, secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    response = send(app, {"model": "healthcare-pubmedqa"}, choice("healthcare-pubmedqa"))
    assert response.status_code == 503
    assert response.json()["error"] == {
        "message": "The adapter of 'healthcare-pubmedqa@1' could not be loaded: no such file",
        "type": "service_unavailable",
        "param": None,
        "code": "adapter_unavailable",
    }
    assert adapters.seen == []
    asyncio.run(asyncio.wait_for(admission.unused("healthcare-pubmedqa@1"), 1))
    assert send(app, {"model": "finance-tfns"}).status_code == 200


@pytest.mark.parametrize(
    ("after", "who", "reason"),
    [
        (None, "base-8b", "base:not-loaded"),
        ("gone-meanwhile", "base-8b", "base:not-loaded"),
        ("finance-tfns", "finance-tfns", "matched:next"),
    ],
)
def test_when_the_choice_cannot_be_loaded_the_next_best_answers(registry, after, who, reason):
    adapters, admission = Adapters(), Admission(NAMES)
    app = LearnwareMiddleware(
        adapters.app, admission=admission, secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    routed = RoutedChoice("healthcare-pubmedqa", "matched", 0.875, 0.42, after)
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    assert response.status_code == 200
    assert json.loads(response.json()["body"]) == {"model": who}
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == (who, reason)
    assert adapters.seen == [[NAMES.learnwares[who]] if who in NAMES.learnwares else []]
    assert registry.get_sample_value("learnware_requests_total", {"learnware": who, "reason": reason}) == 1
    asyncio.run(asyncio.wait_for(admission.unused("healthcare-pubmedqa@1"), 1))


def test_when_neither_the_choice_nor_the_next_best_can_be_loaded_the_base_model_answers(registry):
    adapters = Adapters()
    names = NAMES._replace(learnwares=NAMES.learnwares | {"other": "healthcare-pubmedqa@1"})
    app = LearnwareMiddleware(
        adapters.app, admission=Admission(names), secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    routed = RoutedChoice("healthcare-pubmedqa", "matched", 0.875, 0.42, "other")
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", "base:not-loaded")


def test_when_the_choice_is_not_served_here_the_next_best_answers(app):
    routed = RoutedChoice("withdrawn-yesterday", "matched", 0.875, 0.42, "finance-tfns")
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    assert json.loads(response.json()["body"])["model"] == "finance-tfns"
    assert response.headers["x-learnware-reason"] == "matched:next"


def test_after_a_load_failure_the_base_model_answers_where_the_configuration_says_so(registry):
    adapters = Adapters()
    app = LearnwareMiddleware(
        adapters.app,
        admission=Admission(NAMES),
        secret=SECRET,
        metrics=ReplicaMetrics(registry),
        hold=adapters.hold,
        base_on_load_failure=True,
    )
    response = send(app, {"model": "healthcare-pubmedqa", "messages": []})
    assert response.status_code == 200
    assert json.loads(response.json()["body"]) == {"model": "base-8b", "messages": []}
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", "base:not-loaded")
    assert registry.get_sample_value("learnware_fallbacks_total", {"reason": "base:not-loaded"}) == 1


@pytest.mark.parametrize("model", ["base-8b", "finance-tfns", "auto"])
def test_prompt_logprobs_are_refused_whoever_is_asked_while_an_adapter_of_lm_head_is_there(registry, model):
    guard = PromptLogprobs()
    inner = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"])])
    admission = Admission(NAMES)
    app = LearnwareMiddleware(
        inner, admission=admission, secret=SECRET, metrics=ReplicaMetrics(registry), prompt_logprobs=guard
    )
    asking = {"model": model, "prompt_logprobs": 1}
    assert send(app, asking, choice()).status_code == 200
    asyncio.run(guard.exclude("healthcare-pubmedqa@1"))
    response = send(app, asking, choice())
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "adapts lm_head" in error["message"]
    assert "healthcare-pubmedqa" in error["message"]
    assert send(app, {"model": model, "logprobs": True}, choice()).status_code == 200
    asyncio.run(asyncio.wait_for(admission.unused("finance-tfns@1"), 1))
    guard.include("healthcare-pubmedqa@1")
    assert send(app, asking, choice()).status_code == 200
