"""The front door of a replica over a real FastAPI application: who comes in, as whom, and what the others are told."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware

from serving.access.caller import caller
from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import ANONYMOUS, Tenant
from serving.names import OPEN_PATHS, is_allowed
from serving.replica.front_door import FrontDoor, add_front_door

ALICE = Tenant("alice", max_tokens=4)
KEY = {"authorization": "Bearer alice-key"}
WITH_KEYS = Keyring(None, [(digest_of("alice-key"), ALICE)], "secret")


def application(keyring: Keyring) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    @app.post("/v1/chat/completions")
    @app.post("/v1/messages")
    async def who(request: Request) -> dict[str, Any]:
        held = await asyncio.create_task(asyncio.sleep(0, caller.get()))  # as a task of the request sees it
        assert request.state.tenant == held
        return {"name": held.name, "max_tokens": held.max_tokens}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"name": caller.get().name}

    @app.get("/v1/models/{model}")
    async def unknown(model: str) -> None:
        raise HTTPException(404, f"no {model}")

    @app.get("/secret")
    @app.post("/tokenise")
    async def not_on_the_list() -> dict[str, Any]:
        raise AssertionError

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        raise AssertionError

    @app.get("/metrics")
    async def metrics() -> dict[str, Any]:
        return {}

    app.add_middleware(CORSMiddleware, allow_origins=["*"])  # as vLLM does
    app.build_middleware_stack()
    add_front_door(app, keyring, is_allowed)
    return app


@pytest.fixture
def client() -> httpx.AsyncClient:
    return client_of(WITH_KEYS)


def client_of(keyring: Keyring) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application(keyring)), base_url="http://replica")


async def test_a_key_makes_its_tenant_the_caller(client: httpx.AsyncClient) -> None:
    for headers in (KEY, {"x-api-key": "alice-key"}):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
            answer = await client.request(method, path, headers=headers)
            assert answer.json() == {"name": "alice", "max_tokens": 4}
    assert (await client.get("/v1/models", headers={"x-api-key": "secret"})).json()["name"] == "admin"
    assert caller.get() is ANONYMOUS  # nothing is left behind


async def test_without_keys_everybody_comes_in() -> None:
    async with client_of(Keyring(admin_key="secret")) as client:
        assert (await client.get("/v1/models")).json()["name"] == "anonymous"
        assert (await client.get("/v1/models", headers={"authorization": "Bearer none"})).status_code == 200
        assert (await client.get("/v1/models", headers={"authorization": "Bearer secret"})).json()["name"] == "admin"
        assert (await client.get("/secret")).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/chat/completions", "/v1/route", "/tokenize", "/metrics", "/version"]
)
async def test_without_its_key_a_request_gets_nothing(client: httpx.AsyncClient, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "alice-key"}, {"x-api-key": ""}):
        answer = await client.post(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
        assert "x-api-key" in error["message"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_anthropics_paths_have_anthropics_errors(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path)
    assert answer.status_code == 401
    assert (answer.json()["type"], answer.json()["error"]["type"]) == ("error", "authentication_error")
    assert set(answer.json()) == {"type", "error"}


@pytest.mark.parametrize("keyring", [WITH_KEYS, Keyring()], ids=["keys", "no keys"])
@pytest.mark.parametrize(
    "path",
    [
        "/secret",
        "/docs",
        "/openapi.json",
        "/scale_elastic_ep",
        "/load",
        "/",
        "",
        "//v1/models",
        "/V1/models",
        "/health/x",
    ],
)
async def test_a_path_that_is_not_on_the_list_is_not_there(keyring: Keyring, path: str) -> None:
    async with client_of(keyring) as client:
        for headers in ({}, KEY, {"authorization": "Bearer secret"}):
            answer = await client.get(f"http://replica{path}", headers=headers)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"
            assert "x-learnware" not in answer.headers


async def test_metrics_need_a_key_that_may(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics", headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert (await client.get("/metrics", headers={"x-api-key": "secret"})).status_code == 200
    async with client_of(Keyring()) as anybody:
        assert (await anybody.get("/metrics")).status_code == 200


async def test_a_preflight_without_a_key_gets_nothing(client: httpx.AsyncClient) -> None:
    headers = {"origin": "https://x", "access-control-request-method": "POST"}
    assert (await client.options("/v1/chat/completions", headers=headers)).status_code == 401


async def test_health_needs_no_key_and_has_no_tenant(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health")).json() == {"name": "anonymous"}
    assert {"/health", "/ping"} <= set(OPEN_PATHS)


async def test_what_the_application_does_not_know_is_an_error_object_too(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/chat/completions", headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    answer = await client.get("/v1/messages", headers=KEY)
    assert (answer.status_code, answer.json()["type"]) == (405, "error")
    answer = await client.get("/v1/learnwares", headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    # what an endpoint itself raises is the application's to answer
    assert (await client.get("/v1/models/x", headers=KEY)).json() == {"detail": "no x"}


async def exchange(app: Any, scope: dict[str, Any]) -> list[dict[str, Any]]:
    """Sends a request whose body must not be read, and returns what is sent back."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def scope(path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": headers}


async def test_a_refusal_reads_no_body_and_shows_no_control_character() -> None:
    app = application(WITH_KEYS)
    for path, headers in (
        ("/v1/chat/completions", []),
        ("/v1/chat/completions", [(b"authorization", b"Bearer \xff\x00")]),
        ("/v1/chat/completions", [(b"authorization", b"Bearer alice-key")] * 2),
        ("/\x1b[2J\n" + 9000 * "x", []),
    ):
        start, body = await exchange(app, scope(path, headers))
        assert start["status"] in (401, 404)
        message = json.loads(body["body"])["error"]["message"]
        assert message.isprintable()
        assert len(message) < 400


async def test_a_websocket_is_closed() -> None:
    sent = await exchange(application(Keyring()), {"type": "websocket", "path": "/v1/realtime", "headers": []})
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_a_revoked_key_is_refused_while_the_replica_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    def write(*keys: str) -> None:
        entries = [{"name": "bob", "sha256": digest_of(key)} for key in keys]
        path.write_text(json.dumps({"format": 1, "keys": entries}))

    now = 0.0
    write("old", "new")
    async with client_of(Keyring(path, clock=lambda: now)) as client:

        async def status(key: str) -> int:
            return (await client.get("/v1/models", headers={"x-api-key": key})).status_code

        assert [await status(key) for key in ("old", "new")] == [200, 200]
        write("new")
        now = 2.0
        assert [await status(key) for key in ("old", "new")] == [401, 200]


async def test_the_scope_of_the_caller_is_left_as_it_was() -> None:
    seen: list[Any] = []

    async def app(inner: dict[str, Any], *_: Any) -> None:
        seen.append(inner["state"])

    given = scope("/v1/models", [(b"x-api-key", b"alice-key")]) | {"state": {"kept": 1}}
    await FrontDoor(app, keyring=WITH_KEYS, allowed=is_allowed)(given, None, None)
    assert seen == [{"kept": 1, "tenant": ALICE}]
    assert given["state"] == {"kept": 1}


async def test_it_costs_microseconds() -> None:
    async def app(*_: Any) -> None: ...

    door = FrontDoor(app, keyring=WITH_KEYS, allowed=is_allowed)
    given = scope("/v1/chat/completions", [(b"host", b"x"), (b"authorization", b"Bearer alice-key")])
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(1000):
            await door(given, None, None)
        best = min(best, (time.perf_counter() - begun) / 1000)
    assert best < 100e-6  # some 5 µs
