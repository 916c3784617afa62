"""Sources, paths, CORS and keys, as clients meet them at the real HAProxy."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.access.keyring import digest_of
from serving.names import ALLOWED_PATHS, GENERATING_PATHS, OPEN_PATHS, is_allowed
from tests.serving.edge.door import GENERATES, LOOPBACK, Door, opened, settings
from tests.support import certificate

pytestmark = pytest.mark.slow  # a real HAProxy

KEY = "sk-key-of-nobody"
ORIGIN = "https://chat.example.org"
BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Without keys."""
    with opened(tmp_path_factory.mktemp("e"), settings({"more_paths": ["/v1/embeddings", "/extra/"]})) as door:
        yield door


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """With a key and an origin."""
    http_settings = {"cors_origins": [ORIGIN], "header_wait_s": 1, "max_connections_per_source": 20}
    with opened(tmp_path_factory.mktemp("e"), settings(http_settings, api_keys=[KEY])) as one:
        yield one


@pytest.mark.parametrize("path", [*ALLOWED_PATHS, "/v1/models/a/b", "/v1/responses/r1/cancel", "/v1/learnwares/x"])
def test_an_allowed_path_is_reached(open_door: Door, path: str) -> None:
    assert is_allowed(path)
    if path.startswith("/-/"):
        return  # HAProxy's own answers
    assert open_door.ask(path, method="GET").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/openapi.json",
        "/load",
        "/scale_elastic_ep",
        "/v1/load_lora_adapter",
        "/internal/route",
        "/V1/models",
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "/v1/models/..",
        "/v1/models/../learnwares",
        "/v1/models/%2e%2e/learnwares",
        "/v1/models/%2E/x",
        "/v1/models/a%2F%2Fb",
        "/v1/models/a%5cb",
        "/v1/models/a%00b",
        "/v1/models/a%0ab",
        "/v1/%6Dodels/x",
        "/v1/modelsx",
        "/metrics//",
        "/metrics/x",
        "/v1/chat/completions/",
        "/v1/chat/completions;x",
        "/%2fv1/models",
    ],
)
def test_any_other_path_is_404_and_nobody_is_asked(open_door: Door, path: str) -> None:
    before = open_door.calls()
    for method in ("GET", "POST"):
        answer = open_door.ask(path, method=method)
        assert (answer.status, answer.error["type"], answer.error["code"]) == (
            404,
            "invalid_request_error",
            "not_found",
        )
    assert open_door.calls() == before


def test_the_replicas_list_is_the_edges() -> None:
    allowed = ["/v1/models", "/v1/models/acme/tfns", "/v1/learnwares/a-b_c.d", "/metrics", "/v1/responses/x/cancel"]
    others = ["/v1/models/", "/v1/models/../x", "/v1/models/a//b", "/v1/models/a\\b", "/v1/models/a\x00", "/docs", ""]
    assert [path for path in allowed if not is_allowed(path)] == []
    assert [path for path in others if is_allowed(path)] == []
    assert set(GENERATING_PATHS) <= set(ALLOWED_PATHS)


def test_further_paths_are_reached_where_the_configuration_names_them(open_door: Door) -> None:
    for path in ("/v1/embeddings", "/extra/a/b"):
        assert is_allowed(path, ("/v1/embeddings", "/extra/"))
        assert open_door.ask(path).status == 200
    assert open_door.ask("/v1/embeddings/x").status == open_door.ask("/extra").status == 404


def test_a_fixed_path_goes_on_as_it_is_listed_and_keeps_its_query(open_door: Door) -> None:
    assert open_door.ask("/v1/%63hat/completions?a=%2F").content["path"] == "/v1/chat/completions?a=%2F"


def test_what_a_client_may_not_say_does_not_arrive(open_door: Door) -> None:
    headers = {"X-Vllm-Priority": "-9", "X-Learnware-Tenant": "admin", "x-data-parallel-rank": "1", "x-learnware": "a"}
    headers |= {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https", "x-request-id": "mine"}
    arrived = open_door.ask(headers=headers).content["headers"]
    assert arrived["x-request-id"] == "mine"
    assert not {name.lower() for name in headers} - {"x-request-id"} & set(arrived)


def test_without_keys_everybody_is_answered(open_door: Door) -> None:
    assert open_door.ask().status == open_door.ask(headers={"Authorization": "Bearer whatever"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {digest_of(KEY)}"},
        {"Authorization": "Bearer "},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
    ],
    ids=str,
)
def test_without_a_valid_key_nothing_is_asked(door: Door, headers: dict[str, str]) -> None:
    before = door.calls()
    for path in (*GENERATING_PATHS, "/v1/models", "/metrics", "/tokenize", "/-/routes", "/version", "/v1/learnwares/x"):
        answer = door.ask(path, headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        if path.startswith("/v1/messages"):
            assert (answer.content["type"], answer.error["type"]) == ("error", "authentication_error")
        else:
            assert answer.error["code"] == "invalid_api_key"
    assert door.calls() == before


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_opens_as_bearer_and_as_x_api_key(door: Door, scheme: str) -> None:
    assert door.ask(headers={"Authorization": f"{scheme} {KEY}"}).status == 200
    assert door.ask("/v1/messages", {"x-api-key": KEY}).status == 200
    # the header of one client library, with nothing of use in the other
    assert door.ask(headers={"Authorization": "Bearer none", "x-api-key": KEY}).status == 200


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_health_needs_no_key(door: Door, path: str) -> None:
    assert door.ask(path, method="GET").status != 401


def test_a_refused_request_is_answered_before_its_body_comes(door: Door) -> None:
    with socket.create_connection((LOOPBACK, door.port), timeout=5) as client:
        client.sendall(f"POST {GENERATES} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("path", [GENERATES, "/v1/learnwares", "/v1/task-specs", "/v1/route"])
def test_a_body_that_is_announced_too_large_is_413(door: Door, path: str) -> None:
    most = {"/v1/learnwares": 256 << 20, "/v1/task-specs": 64 << 10}.get(path, 4 << 20)
    with socket.create_connection((LOOPBACK, door.port), timeout=5) as client:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: {most + 1}\r\n\r\n"
        client.sendall(head.encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (413, "body_too_large")


def test_a_preflight_is_answered_at_the_edge_without_a_key(door: Door) -> None:
    before = door.calls()
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    answer = door.ask(GENERATES, asked, method="OPTIONS", body=b"")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "Origin" in answer.headers["vary"]
    assert door.ask(GENERATES, asked | {"Origin": "https://evil.example"}, method="OPTIONS", body=b"").status == 401
    assert door.calls() == before


@pytest.mark.parametrize(
    ("path", "headers", "status"), [(GENERATES, BEARER, 200), (GENERATES, {}, 401), ("/docs", BEARER, 404)]
)
def test_a_configured_origin_reads_every_answer(door: Door, path: str, headers: dict[str, str], status: int) -> None:
    answer = door.ask(path, headers | {"Origin": ORIGIN})
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
    exposed = re.split(", *", answer.headers["access-control-expose-headers"])
    limits = {f"x-ratelimit-{part}-{of}" for part in ("limit", "remaining", "reset") for of in ("requests", "tokens")}
    assert {"x-learnware", "x-learnware-reason", "retry-after", "x-request-id"} | limits <= set(exposed)
    assert "access-control-allow-credentials" not in answer.headers  # the replica's own
    other = door.ask(path, headers | {"Origin": "https://evil.example"})
    assert not [name for name in other.headers if name.startswith("access-control-")]
    assert "Origin" in other.headers["vary"]


def test_without_origins_no_answer_has_cors_headers(open_door: Door) -> None:
    answer = open_door.ask(headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_every_page_may_call_where_the_star_stands(tmp_path: Path) -> None:
    with opened(tmp_path, settings({"cors_origins": ["*"]})) as door:
        assert door.ask(headers={"Origin": "https://any.example"}).headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in door.ask().headers


def test_a_header_that_does_not_end_is_cut_off(door: Door) -> None:
    with socket.create_connection((LOOPBACK, door.port), timeout=5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n")
        started = time.monotonic()
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
        assert 0.5 < time.monotonic() - started < 3


def test_a_source_with_too_many_connections_is_refused_and_others_are_not(door: Door) -> None:
    silent = [socket.create_connection((LOOPBACK, door.port), source_address=("127.0.0.7", 0)) for _ in range(20)]
    try:
        answer = door.ask(headers=BEARER, source="127.0.0.7")
        assert (answer.status, answer.error["type"], answer.headers["retry-after"]) == (429, "rate_limit_error", "2")
        assert door.ask("/v1/messages", BEARER, source="127.0.0.7").content["type"] == "error"
        assert door.ask(headers=BEARER, source="127.0.0.8").status == 200
        # one that never sends a header is cut off without an answer, well above the limit
        silent += [socket.create_connection((LOOPBACK, door.port), source_address=("127.0.0.7", 0)) for _ in range(20)]
        silent[-1].settimeout(0.5)
        with contextlib.suppress(ConnectionResetError):
            assert silent[-1].recv(1) == b""
    finally:
        for each in silent:
            each.close()


def test_half_sent_headers_leave_others_as_they_were(tmp_path: Path) -> None:
    with opened(tmp_path, settings({"max_connections_per_source": 200})) as door:
        alone = _median_ms(door)
        half = []
        for number in range(400):
            client = socket.create_connection((LOOPBACK, door.port), source_address=(f"127.0.1.{number // 100 + 1}", 0))
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-a: b")
            half.append(client)
        try:
            assert _median_ms(door) < 3 * alone + 5
        finally:
            for client in half:
                client.close()


def _median_ms(door: Door) -> float:
    times = []
    for _ in range(30):
        started = time.perf_counter()
        assert door.ask().status == 200
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)[15]


def test_behind_a_trusted_proxy_the_source_is_the_last_address_that_is_not_one(tmp_path: Path) -> None:
    trusted = {"trusted_proxies": ["127.0.0.9/32", "10.0.0.0/8"], "max_connections_per_source": 1}
    with opened(tmp_path, settings(trusted)) as door:
        door.servers["engine"].behaviour = "hold"
        with socket.create_connection((LOOPBACK, door.port), source_address=("127.0.0.9", 0)) as busy:
            busy.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 9.9.9.9, 1.2.3.4, 10.0.0.1\r\n\r\n")
            while not door.servers["engine"].calls:
                time.sleep(0.01)
            door.servers["engine"].behaviour = ""

            def status(forwarded: str, source: str = "127.0.0.9") -> int:
                return door.ask(headers={"X-Forwarded-For": forwarded}, source=source).status

            assert status("1.2.3.4") == 429
            assert status("1.2.3.4, 10.9.9.9, 10.0.0.2") == 429
            assert status("1.2.3.4, 5.6.7.8") == 200  # the first was the client's own claim
            assert status("9.9.9.9") == 200
            assert status("1.2.3.4", source="127.0.0.10") == 200  # not believed
            arrived = door.ask(headers={"X-Forwarded-For": "5.6.7.8"}, source="127.0.0.9").content["headers"]
            assert arrived["x-forwarded-for"] == "5.6.7.8"
            arrived = door.ask(headers={"X-Forwarded-For": "5.6.7.8"}, source="127.0.0.10").content["headers"]
            assert "x-forwarded-for" not in arrived
            door.servers["engine"].released.set()


def test_the_proxy_protocol_names_the_source(tmp_path: Path) -> None:
    trusted = {"trusted_proxies": ["127.0.0.9/32"], "proxy_protocol": True, "max_connections_per_source": 1}
    with opened(tmp_path, settings(trusted)) as door:

        def connect(client: str) -> socket.socket:
            one = socket.create_connection((LOOPBACK, door.port), source_address=("127.0.0.9", 0), timeout=5)
            one.sendall(f"PROXY TCP4 {client} 127.0.0.1 4000 80\r\n".encode())
            return one

        request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 5.5.5.5\r\n\r\n"
        with connect("1.2.3.4") as first, connect("1.2.3.4") as second, connect("5.6.7.8") as third:
            for one in (first, second, third):
                one.sendall(request)
            assert {first.recv(12), second.recv(12)} >= {b"HTTP/1.1 429"}
            assert third.recv(12) == b"HTTP/1.1 200"
        assert door.ask().status == 200  # others speak HTTP at once


def test_with_a_certificate_the_door_speaks_tls_alone(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "localhost")
    with opened(tmp_path, settings({"tls_certificate": str(pem)})) as door:
        trusting = ssl.create_default_context(cafile=str(pem))
        client = http.client.HTTPSConnection("localhost", door.port, timeout=10, context=trusting)
        client.request("POST", GENERATES, b"{}")
        assert client.getresponse().status == 200
        client.close()
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            door.ask()
