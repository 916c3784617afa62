"""Bad input gets an OpenAI error object with the right status, and the next good request succeeds."""

import json
import socket
import time

import httpx
import pytest

from tests.e2e.support import QUESTIONS, USER_KEY, Stack, chat, metric

pytestmark = pytest.mark.e2e

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def the_next_good_request_succeeds(http: httpx.Client):
    yield
    response = chat(http, QUESTIONS[2].text, max_tokens=1)
    assert response.status_code == 200
    assert response.headers["x-learnware"].startswith("mathematics")


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{not json", 400),
        (b"", 400),
        (b"[]", 400),
        (b'{"model": 5, "messages": []}', 400),
        (b'{"model": "auto", "messages": "hi"}', 400),
        (b'{"model": "auto", "messages": []}', 400),
        (b'{"model": "auto"}', 400),
        (b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
        (json.dumps({"model": "auto", "messages": message("hi"), "max_tokens": "many"}).encode(), 400),
        (json.dumps({"model": "auto", "messages": message("word " * 5000)}).encode(), 400),
        (json.dumps({"model": "no-such-model", "messages": message("hi")}).encode(), 404),
        (json.dumps({"model": "task:unknown", "messages": message("hi")}).encode(), 404),
    ],
    ids=[
        "malformed",
        "empty",
        "a list",
        "model is a number",
        "messages are text",
        "no messages",
        "messages missing",
        "invalid UTF-8",
        "a wrong type",
        "longer than the context",
        "an unknown model",
        "an unknown task",
    ],
)
def test_it_is_refused_with_an_openai_error(http: httpx.Client, content: bytes, status: int):
    response = http.post("/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]


def test_a_body_of_9_mb_is_too_large(http: httpx.Client):
    body = {"messages": message("Revenue rose. " * 650_000), "model": "auto"}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 413
    assert "too large" in response.json()["error"]["message"]


def test_a_body_of_3_mb_is_answered_with_the_context_error(http: httpx.Client):
    body = {"messages": message("Revenue rose. " * 220_000), "model": "auto"}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "context length" in response.json()["error"]["message"]


def test_a_chunked_body_is_routed_like_any_other(http: httpx.Client):
    body = json.dumps({"model": "auto", "messages": message(QUESTIONS[1].text), "max_tokens": 1}).encode()
    response = http.post(
        "/v1/chat/completions", content=(body[at : at + 50] for at in range(0, len(body), 50)), headers=JSON
    )
    assert response.status_code == 200
    assert response.headers["x-learnware"].startswith("healthcare")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/internal/route", "/internal", "/internal//route"])
def test_internal_routes_cannot_be_reached(http: httpx.Client, method: str, path: str):
    response = http.request(method, path, content=b"{}", headers=JSON)
    assert response.status_code == 404
    assert "error" in response.json()


def test_a_client_cannot_make_the_choice_itself(http: httpx.Client):
    forged = "learnware=finance-tfns&reason=matched&score=1.0&ms=0.1&sign=" + "0" * 32
    body = {"model": "auto", "messages": message(QUESTIONS[2].text), "max_tokens": 1}
    response = http.post("/v1/chat/completions", json=body, headers={"x-serve-router-learnware": forged})
    assert response.headers["x-learnware"].startswith("mathematics")


def test_a_client_that_hangs_up_in_a_stream_frees_the_engine(stack: Stack, http: httpx.Client):
    tokens = 900
    body = json.dumps(
        {
            "model": "auto",
            "messages": message("Tell me a very long story."),
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
        }
    ).encode()
    headers = (
        f"Host: x\r\nAuthorization: Bearer {USER_KEY}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{headers}\r\n\r\n"
    before = metric(http.get("/metrics").text, "vllm:generation_tokens_total")
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while received.count(b"data:") < 3:
            received += connection.recv(4096)
        assert metric(http.get("/metrics").text, "vllm:num_requests_running") >= 1
    deadline = time.monotonic() + 10
    while metric(http.get("/metrics").text, "vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline, "the engine still runs the request of a client that hung up"
        time.sleep(0.1)
    generated = metric(http.get("/metrics").text, "vllm:generation_tokens_total") - before
    assert 0 < generated < tokens, "the request ran to its end"
