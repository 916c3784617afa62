"""The edge rules at work: the real HAProxy on an edited configuration, tiny real servers as replicas and routers."""

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from serving.launch import haproxy_admin as admin
from serving.launch.edge_settings import MIB
from serving.names import GENERATING_PATHS
from specs.errors import LearnwareError
from tests.serving.edge.door import GENERATES, SLOW, Door, end, opened, settings

pytestmark = pytest.mark.slow  # a real HAProxy, and what it waits for

LARGEST_BODY = 100_000


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    given = settings({"body_wait_s": 1, "max_body_mib": LARGEST_BODY / MIB, "more_paths": [SLOW]})
    with opened(tmp_path_factory.mktemp("e"), given) as door:
        yield door


def test_a_post_gets_the_routers_choice_and_not_the_clients(edge: Door) -> None:
    status, answer = edge.request(
        "POST", "/v1/chat/completions", b"{}", x_serve_router_learnware="mine", X_Serve_Router_Else="1"
    )
    assert (status, answer["server"]) == (200, "engine")
    assert answer["headers"]["x-serve-router-learnware"] == "chosen"
    assert "x-serve-router-else" not in answer["headers"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_request_that_is_not_routed_loses_router_headers_too(edge: Door, method: str) -> None:
    _, answer = edge.request(method, "/v1/models", x_serve_router_learnware="mine", x_serve_router_failed="mine")
    assert answer["server"] == "engine"
    assert not [name for name in answer["headers"] if name.startswith("x-serve-router")]


@pytest.mark.parametrize(
    "path", ["/internal/route", "/internal", "/INTERNAL/route", "/%69nternal/route", "/internal%2Froute"]
)
def test_internal_paths_do_not_exist_outside(edge: Door, path: str) -> None:
    before = router_calls(edge)
    status, answer = edge.request("POST", path, b"{}")
    assert status == 404
    assert answer["error"]["type"] == "invalid_request_error"
    assert router_calls(edge) == before


def test_a_post_to_another_application_does_not_ask_the_router(edge: Door) -> None:
    before = edge.servers["router"].calls + edge.servers["second_router"].calls
    for path in ("/metrics", "/%6Detrics"):
        answer = edge.request("POST", path, b"{}")[1]
        assert (answer["server"], answer["path"]) == ("other", "/metrics")
    assert edge.servers["router"].calls + edge.servers["second_router"].calls == before


def router_calls(edge: Door) -> int:
    calls: int = edge.servers["router"].calls + edge.servers["second_router"].calls
    return calls


@pytest.mark.parametrize("path", GENERATING_PATHS)
def test_a_path_that_generates_asks_the_router_however_it_is_written(edge: Door, path: str) -> None:
    written = (path, path + "?stream=1", path.replace("n", "%6E"))
    before = router_calls(edge)
    for each in written:
        assert edge.request("POST", each, b"{}")[1]["headers"]["x-serve-router-learnware"] == "chosen"
    assert router_calls(edge) == before + len(written)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/route",
        "/v1/%72oute",
        "/v1/route?x=/v1/chat/completions",
        "/tokenize",
        "/detokenize",
        "/v1/chat/completions/render",
        "/v1/messages/count_tokens",
        "/v1/learnwares",
        "/v1/task-specs",
    ],
)
def test_a_path_that_generates_nothing_does_not_ask_the_router(edge: Door, path: str) -> None:
    before = router_calls(edge)
    status, answer = edge.request("POST", path, b"{}", x_serve_router_learnware="mine")
    assert (status, answer["server"]) == (200, "engine")
    assert not [name for name in answer["headers"] if name.startswith("x-serve-router")]
    assert router_calls(edge) == before


def test_a_refusal_is_passed_on_at_once_with_when_to_come_again(edge: Door) -> None:
    routers, engine = router_calls(edge), edge.servers["engine"].calls
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=15)
    connection.request("POST", GENERATES, b"refuse")
    response = connection.getresponse()
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert response.headers["content-type"] == "application/json"
    error = json.loads(response.read())["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "router_overloaded", None)
    # the connection goes on
    connection.request("POST", GENERATES, b"{}")
    assert connection.getresponse().status == 200
    connection.close()
    # neither the other router nor a replica was asked for the first
    assert router_calls(edge) == routers + 2
    assert edge.servers["engine"].calls == engine + 1


def test_a_router_that_does_not_answer_in_time_is_told_from_one_that_is_not_there(edge: Door) -> None:
    status, answer = edge.request("POST", GENERATES, b"hang")
    assert (status, answer["server"]) == (200, "engine")
    assert answer["headers"]["x-serve-router-failed"] == "router_timeout"
    assert "x-serve-router-learnware" not in answer["headers"]


@pytest.mark.parametrize(
    ("body", "server", "failed"),
    [(b"unknown", "fallback", "unknown_replica_id"), (b"nowhere", "engine", "unparseable_replica_id")],
)
def test_a_choice_is_kept_where_its_replica_is_not_known(edge: Door, body: bytes, server: str, failed: str) -> None:
    status, answer = edge.request("POST", GENERATES, body)
    assert (status, answer["server"]) == (200, server)
    assert answer["headers"]["x-serve-router-learnware"] == "chosen"
    assert answer["headers"]["x-serve-router-failed"] == failed


def test_a_router_that_fails_lets_the_request_through_without_a_choice(edge: Door) -> None:
    status, answer = edge.request("POST", "/v1/completions", b"fail", x_serve_router_learnware="mine")
    assert (status, answer["server"]) == (200, "engine")
    assert "x-serve-router-learnware" not in answer["headers"]
    assert answer["headers"]["x-serve-router-failed"] == "router_non_200"


def test_an_announced_body_above_the_limit_is_413(edge: Door) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5) as client:
        client.sendall(f"POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-length: {LARGEST_BODY + 1}\r\n\r\n".encode())
        assert _openai_error(client) == 413


@pytest.mark.parametrize("path", ["/v1/route", GENERATES])
def test_a_body_that_does_not_come_is_408(edge: Door, path: str) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc".encode())
        assert _openai_error(client) == 408


def _openai_error(client: socket.socket) -> int:
    response = http.client.HTTPResponse(client)
    response.begin()
    assert set(json.loads(response.read())["error"]) == {"message", "type", "param", "code"}
    return response.status


def test_the_admin_socket_tells_that_requests_are_routed(edge: Door) -> None:
    """By the names that Ray's own configuration gives to backends and servers."""
    assert admin.unrouted(edge) is None
    assert admin.wait_until_routed(edge, 1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("_ROUTED_BACKEND_SUFFIX", r"no backend \*else; it has .*, http-learnware-via-ingress-request-router, "),
        ("_REPLICA_PREFIX", r"no server else\* in http-learnware-via-.*; it has SERVE_REPLICA_learnware-engine-r1, "),
    ],
)
def test_a_name_that_is_not_in_the_configuration_is_told_with_those_that_are(
    edge: Door, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(admin, name, "else")
    assert re.search(said, admin.unrouted(edge) or "")
    assert not admin.wait_until_routed(edge, 0.2)


def test_a_replica_that_is_down_is_told(edge: Door) -> None:
    stat = admin.command(edge.admin_socket, "show stat")
    assert admin._unrouted(stat) is None
    assert (admin._unrouted(stat.replace(",UP,", ",DOWN,")) or "").startswith("HAProxy reaches no replica: SERVE_REPL")


def test_only_requests_that_run_are_counted(edge: Door) -> None:
    rows = list(admin._rows(admin.command(edge.admin_socket, "show stat")))
    assert (admin._STATISTICS, "BACKEND") in {(row["pxname"], row["svname"]) for row in rows}
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=15)
    connection.request("GET", SLOW)
    while not (running := admin._backend_sessions(admin.command(edge.admin_socket, "show stat"))):
        time.sleep(0.01)
    assert running == 1
    assert connection.getresponse().status == 200
    connection.close()
    deadline = time.monotonic() + 5  # the answer is there a moment before HAProxy counts it out
    while admin._backend_sessions(admin.command(edge.admin_socket, "show stat")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert admin._backend_sessions(admin.command(edge.admin_socket, "show stat")) == 0


def test_with_one_router_dead_every_request_is_still_routed(edge: Door) -> None:
    """Runs late: it closes a router. a refused connection is tried again on the other one at once."""
    end(edge.servers["second_router"])
    started = time.monotonic()
    choices = [edge.request("POST", GENERATES, b"{}")[1]["headers"].get("x-serve-router-learnware") for _ in range(20)]
    assert choices == ["chosen"] * 20
    assert time.monotonic() - started < 2, "Ray alone takes 3 s for each request that meets the dead router"


def test_with_no_router_left_requests_reach_a_replica_without_a_choice(edge: Door) -> None:
    """Runs late: it closes the other router."""
    end(edge.servers["router"])
    time.sleep(1)  # two checks
    started = time.monotonic()
    status, answer = edge.request("POST", GENERATES, b"{}", x_serve_router_learnware="mine")
    assert time.monotonic() - started < 1
    assert (status, answer["server"]) == (200, "engine")
    assert answer["headers"]["x-serve-router-failed"] == "router_non_200"
    assert "x-serve-router-learnware" not in answer["headers"]


def test_new_connections_are_refused_and_a_frontend_that_is_not_there_is_told(
    edge: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs last: it closes the frontend."""
    with monkeypatch.context() as changed:
        changed.setattr(admin, "_FRONTEND", "else")
        with pytest.raises(LearnwareError, match=r"still takes new requests: .*'No such frontend\.'"):
            admin.refuse_new_connections(edge)
    socket.create_connection(("127.0.0.1", edge.port), timeout=2).close()
    admin.refuse_new_connections(edge)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", edge.port), timeout=2)
