"""Who may come in, and how a stranger is told that he may not: keys, paths, limits, on the running stack."""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping

import httpx
import psutil
import pytest

from tests.e2e.support import ADMIN_KEY, QUESTIONS, TENANTS, USER_KEY, Stack, chat, metric

pytestmark = pytest.mark.e2e

BODY = {"model": "auto", "messages": [{"role": "user", "content": QUESTIONS[0].text}], "max_tokens": 1}
OF_THE_ENGINE = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/invocations"),
    ("POST", "/inference/v1/generate"),
    ("POST", "/tokenize"),
    ("POST", "/v1/route"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/auto"),
]
OF_OTHERS = [("POST", "/v1/task-specs"), ("POST", "/v1/learnwares"), ("GET", "/v1/learnwares"), ("GET", "/metrics")]
UNKNOWN = ["/docs", "/openapi.json", "/load", "/scale_elastic_ep", "/nowhere", "/v1/load_lora_adapter", "/v2/models"]

Granted = dict[str, Mapping[str, object]]


@pytest.fixture
def stranger(stack: Stack) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=stack.url, timeout=60) as client:
        yield client


@pytest.fixture
def tenants(stack: Stack) -> Iterator[Granted]:
    """The tenants of the key file, which is as before at the end; a test writes its own beside them."""
    yield dict(TENANTS)
    stack.write_keys(TENANTS)


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def known(client: httpx.Client, key: str) -> bool:
    return client.get("/v1/models", headers={"x-api-key": key}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer lw-wrong"}, {"x-api-key": "lw-wrong"}], ids=str)
@pytest.mark.parametrize(("method", "path"), [*OF_THE_ENGINE, *OF_OTHERS], ids=str)
def test_without_a_valid_key_nothing_is_answered(
    stranger: httpx.Client, method: str, path: str, headers: dict[str, str]
):
    response = stranger.request(method, path, json=BODY if method == "POST" else None, headers=headers)
    assert response.status_code == 401, response.text
    assert "x-learnware" not in response.headers
    assert response.headers["www-authenticate"].startswith("Bearer")
    error = response.json()["error"]
    if path == "/v1/messages":
        assert (response.json()["type"], error["type"]) == ("error", "authentication_error")
    else:
        assert error["code"] == "invalid_api_key"


def test_nor_on_the_port_of_a_replica(stack: Stack):
    """HAProxy reaches it, and so may a stranger on the machine."""
    engine = next(process for process in stack.processes() if "learnware:engine" in " ".join(process.cmdline()))
    ports = [
        connection.laddr.port
        for connection in engine.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and 20_000 <= connection.laddr.port < 32_768
    ]
    with httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}", timeout=60) as client:
        for method, path in OF_THE_ENGINE:
            response = client.request(method, path, json=BODY if method == "POST" else None)
            assert response.status_code == 401, (path, response.text)
        assert client.get("/health").status_code == 200


def test_health_needs_no_key(stranger: httpx.Client):
    assert [stranger.get(path).status_code for path in ("/health", "/ping")] == [200, 200]


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_path_that_is_not_offered_is_not_there(http: httpx.Client, path: str):
    response = http.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["message"]
    assert "x-learnware" not in response.headers


def test_either_header_carries_the_key(stranger: httpx.Client):
    for headers in ({"authorization": f"Bearer {USER_KEY}"}, {"x-api-key": USER_KEY}, {"x-api-key": ADMIN_KEY}):
        response = stranger.post("/v1/chat/completions", json=BODY, headers=headers)
        assert (response.status_code, response.headers["x-learnware-reason"]) == (200, "matched")


def test_a_key_is_added_and_revoked_while_the_stack_runs(stack: Stack, stranger: httpx.Client, tenants: Granted):
    assert not known(stranger, "lw-new")
    stack.write_keys(tenants | {"new": {"key": "lw-new"}})
    wait_until(lambda: known(stranger, "lw-new"))
    stack.write_keys(tenants)
    wait_until(lambda: not known(stranger, "lw-new"))
    assert known(stranger, USER_KEY)


def test_past_its_requests_a_minute_a_tenant_is_told_when_to_come_again(
    stack: Stack, stranger: httpx.Client, tenants: Granted, http: httpx.Client
):
    stack.write_keys(tenants | {"busy": {"key": "lw-busy", "requests_per_minute": 3}})
    busy = {"x-api-key": "lw-busy"}
    wait_until(lambda: known(stranger, "lw-busy"))
    answers = [stranger.post("/v1/chat/completions", json=BODY, headers=busy) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:3]] == ["2", "1", "0"]
    refused = answers[-1]
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    message = stranger.post("/v1/messages", json=BODY, headers=busy)
    assert (message.status_code, message.json()["error"]["type"]) == (429, "rate_limit_error")
    assert message.json()["type"] == "error"
    assert chat(http, QUESTIONS[0].text, max_tokens=1).status_code == 200  # another tenant


def test_past_its_tokens_a_minute_too(stack: Stack, stranger: httpx.Client, tenants: Granted):
    stack.write_keys(tenants | {"wordy": {"key": "lw-wordy", "tokens_per_minute": 150}})
    wordy = {"x-api-key": "lw-wordy"}
    wait_until(lambda: known(stranger, "lw-wordy"))
    body = BODY | {"max_tokens": 100, "ignore_eos": True}
    answers = [stranger.post("/v1/chat/completions", json=body, headers=wordy) for _ in range(3)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].headers["x-ratelimit-limit-tokens"] == "150"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_sequences_beyond_the_limit_are_refused(http: httpx.Client, path: str):
    response = http.post(path, json=BODY | {"prompt": "One", "n": 1000})
    assert response.status_code == 400
    assert "16" in response.json()["error"]["message"]


def test_what_chat_programs_send_beside_is_no_error(http: httpx.Client):
    for fields in ({"tools": []}, {"max_tokens": 100_000, "stop": ["."]}, {"stop": []}, {"tools": None}):
        response = http.post("/v1/chat/completions", json=BODY | fields)
        assert response.status_code == 200, (fields, response.text)


def test_no_page_of_another_origin_may_call_unless_it_is_configured(http: httpx.Client):
    answered = http.post("/v1/chat/completions", json=BODY, headers={"origin": "https://example.org"})
    assert answered.status_code == 200
    assert not [name for name in answered.headers if name.startswith("access-control")]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_that_hangs_up_frees_the_engine_within_a_second(stack: Stack, http: httpx.Client, stream: bool):
    body = json.dumps(BODY | {"max_tokens": 900, "ignore_eos": True, "stream": stream}).encode()
    fields = ("Host: x", f"x-api-key: {USER_KEY}", "Content-Type: application/json", f"Content-Length: {len(body)}")
    head = "\r\n".join(("POST /v1/chat/completions HTTP/1.1", *fields, "", "")).encode()
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(head + body)
        wait_until(lambda: running(http) == 1)
    time.sleep(1)
    assert running(http) == 0


def running(http: httpx.Client) -> float:
    return metric(http.get("/metrics").text, "vllm:num_requests_running")
