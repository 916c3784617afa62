"""Answers of applications that behave as vLLM's do, with an engine that fails at each point of them."""

import asyncio
import json
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from serving.paging.inflight import DeadEngine, Exchange, LateAnswer, exchange
from serving.replica.answering import Answering

pytestmark = pytest.mark.vllm

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
DEAD = DeadEngine("its scheduler does not answer")


class Client:
    """What reached the client, as it came."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        assert self.messages[0]["type"] == "http.response.start"
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def complete(self) -> bool:
        ends = [not message.get("more_body", False) for message in self.messages[1:]]
        return bool(ends) and ends[-1] and not any(ends[:-1])


def now() -> Exchange:
    running = exchange.get()
    assert running is not None
    return running


async def ask(app, path: str = CHAT, failure: str | None = None) -> Client:
    client = Client()
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await Answering(app, failure=lambda: failure)(scope, receive, client.send)
    return client


async def start(send, status: int = 200, kind: bytes = b"text/event-stream; charset=utf-8") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})


async def part(send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def streaming(tokens: int, error: Exception | None = None, raises: bool = False, before: int = 0):
    """A stream whose head goes out first; `before` events need no engine. An error of the engine becomes an event of
    vLLM's own, or is raised."""

    async def app(scope, receive, send):
        await start(send)
        for _ in range(before):
            await part(send, b"event: response.created\ndata: {}\n\n")
        for number in range(tokens):
            now().began = True
            await part(send, b"data: %d\n\n" % number)
        if error is not None:
            now().failure = error
            if raises:
                raise RuntimeError("Caught handled exception, but response already started.") from error
            await part(send, b'data: {"error": {"message": "EngineCore encountered an issue"}}\n\n')
        await part(send, b"data: [DONE]\n\n", more=False)

    return app


async def test_an_answer_without_errors_is_passed_on_as_it_is():
    client = await ask(streaming(2))
    assert (client.status, client.body) == (200, b"data: 0\n\ndata: 1\n\ndata: [DONE]\n\n")
    assert client.complete


async def test_the_head_waits_for_the_engine_and_what_came_before_follows_it():
    client = Client()
    seen: list[int] = []

    async def app(scope, receive, send):
        await start(send)
        await part(send, b"created")
        await part(send, b"in progress")
        seen.append(len(client.messages))
        now().began = True
        await part(send, b"token")
        seen.append(len(client.messages))
        await part(send, b"", more=False)

    await Answering(app)({"type": "http", "path": RESPONSES}, None, client.send)
    assert seen == [0, 4]
    assert client.body == b"createdin progresstoken"


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize(("error", "status"), [(DEAD, 502), (LateAnswer("too late"), 504), (ValueError("bad"), 400)])
@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_before_the_first_token_an_error_has_its_status(path, error, status, raises):
    client = await ask(streaming(0, error, raises, before=2), path)
    told = json.loads(client.body)
    assert client.status == status
    assert client.headers["content-type"] == "application/json"
    assert told["error"]["message"] == str(error)
    assert told.get("type") == ("error" if path == MESSAGES else None)
    assert client.complete


@pytest.mark.parametrize("error", [OverflowError("can't serialize ints"), "\ud800"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_value_that_cannot_reach_the_engine_is_the_clients_fault(path, error):
    if isinstance(error, str):
        with pytest.raises(UnicodeEncodeError) as raised:
            error.encode()
        error = raised.value
    client = await ask(streaming(0, error, raises=True, before=0), path)
    assert client.status == 400
    assert "cannot be represented" in json.loads(client.body)["error"]["message"]


async def test_a_request_that_the_engine_refuses_gets_the_refusal_and_not_a_stream():
    client = await ask(streaming(0, VLLMValidationError("the prompt is too long", parameter="prompt")))
    assert client.status == 400
    assert "too long" in json.loads(client.body)["error"]["message"]


@pytest.mark.parametrize("raises", [False, True])
async def test_after_it_a_chat_stream_ends_with_one_error_event_and_its_end_mark(raises):
    client = await ask(streaming(2, DEAD, raises))
    assert client.status == 200
    *tokens, error, done = client.body.decode().strip().split("\n\n")
    assert tokens == ["data: 0", "data: 1"]
    assert json.loads(error.removeprefix("data: "))["error"] == {
        "message": str(DEAD),
        "type": "service_unavailable",
        "param": None,
        "code": "engine_gone",
    }
    assert done == "data: [DONE]"
    assert client.complete


@pytest.mark.parametrize("raises", [False, True])
async def test_after_it_a_response_ends_with_an_error_event_that_counts_on(raises):
    client = await ask(streaming(2, DEAD, raises, before=2), RESPONSES)
    name, data = client.body.decode().strip().split("\n\n")[-1].split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert name == "event: error"
    assert (event["type"], event["sequence_number"], event["code"]) == ("error", 4, "engine_gone")
    assert event["message"] == event["error"]["message"] == str(DEAD)
    assert client.body.count(b"event: error") == 1
    assert client.complete


@pytest.mark.parametrize("raises", [False, True])
async def test_after_it_a_message_ends_with_anthropics_error_event(raises):
    client = await ask(streaming(1, LateAnswer("too late"), raises), MESSAGES)
    name, data = client.body.decode().strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {"type": "timeout_error", "message": "too late"},
    }
    assert client.body.count(b"event: error") == 1


async def test_an_answer_in_one_piece_gets_the_status_too():
    async def app(scope, receive, send):
        now().failure = DEAD
        await start(send, 500, b"application/json")
        await part(send, b'{"error": {"message": "EngineCore encountered an issue"}}', more=False)

    client = await ask(app)
    assert client.status == 502
    assert json.loads(client.body)["error"]["code"] == "engine_gone"


async def test_an_engine_that_died_before_the_request_reached_it_is_a_502_too():
    failures = iter([None, "it died"])

    async def app(scope, receive, send):
        await start(send, 500, b"application/json")
        await part(send, b'{"error": {"message": "EngineCore encountered an issue"}}', more=False)

    client = Client()
    await Answering(app, failure=lambda: next(failures))({"type": "http", "path": CHAT}, None, client.send)
    assert client.status == 502


async def test_errors_of_the_application_itself_are_passed_on():
    async def app(scope, receive, send):
        await start(send, 422, b"application/json")
        await part(send, b"{}", more=False)

    client = await ask(app)
    assert (client.status, client.body) == (422, b"{}")


async def test_what_breaks_without_a_known_reason_says_nothing_of_the_inside(caplog):
    async def app(scope, receive, send):
        raise KeyError("/secret/path")

    client = await ask(app)
    assert client.status == 500
    assert b"secret" not in client.body
    assert "KeyError" in caplog.text


async def test_a_stream_that_stops_without_its_end_gets_an_error_event():
    async def app(scope, receive, send):
        await start(send)
        now().began = True
        await part(send, b"data: 0\n\n")

    client = await ask(app)
    assert b'"error"' in client.body
    assert client.body.endswith(b"data: [DONE]\n\n")


async def test_what_is_no_stream_of_events_breaks_off():
    async def app(scope, receive, send):
        await start(send, kind=b"application/octet-stream")
        now().began = True
        await part(send, b"half")
        raise ValueError("the other half is missing")

    with pytest.raises(ValueError, match="missing"):
        await ask(app)


@pytest.mark.parametrize("path", [CHAT, "/health", "/ping", "/v1/models"])
async def test_a_replica_whose_engine_is_gone_says_so(path):
    client = await ask(streaming(0), path, failure="it finished no step for 120 s")
    assert client.status == {CHAT: 502, "/health": 503, "/ping": 503, "/v1/models": 200}[path]
    if client.status != 200:
        assert "no step for 120 s" in json.loads(client.body)["error"]["message"]


async def test_a_cancelled_request_takes_what_it_has_in_the_engine_along():
    left = asyncio.Event()

    class Running:
        def abandon(self) -> None:
            left.set()
            owner.left(self)

    owner = Exchange()

    async def app(scope, receive, send):
        nonlocal owner
        owner = now()
        owner.inflight.add(Running())
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(app))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set()
    assert owner.abandoned


@pytest.mark.parametrize(("path", "abandoned"), [(CHAT, True), (RESPONSES, False)])
async def test_only_a_response_may_go_on_after_its_answer(path, abandoned):
    owners: list[Exchange] = []

    async def app(scope, receive, send):
        owners.append(now())
        await start(send, kind=b"application/json")
        await part(send, b"{}", more=False)

    await ask(app, path)
    assert owners[0].abandoned == abandoned


async def test_the_exchange_ends_with_the_request():
    await ask(streaming(1))
    assert exchange.get() is None
