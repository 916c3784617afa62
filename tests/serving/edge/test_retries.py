"""One more try on another replica, and never two."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.launch.environment import FORWARDED_BODY_BYTES
from tests.serving.edge.door import GENERATES, LOOPBACK, Door, opened, settings

pytestmark = pytest.mark.slow  # a real HAProxy


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Two engines, of which the router always chooses the first."""
    with opened(tmp_path_factory.mktemp("e"), settings(), two_engines=True) as door:
        yield door


@pytest.fixture
def door(two: Door) -> Iterator[Door]:
    yield two
    for server in two.servers.values():
        server.behaviour = ""


@pytest.mark.parametrize("behaviour", ["close", "502", "503"])
def test_a_request_that_got_no_answer_is_tried_once_on_another_replica_with_its_choice(
    door: Door, behaviour: str
) -> None:
    first, second = door.servers["engine"], door.servers["second_engine"]
    first.behaviour = behaviour
    before = first.calls, second.calls
    answer = door.ask(body=b'{"model": "auto"}')
    assert (answer.status, answer.content["server"]) == (200, "second_engine")
    assert answer.content["headers"]["x-serve-router-learnware"] == "chosen"
    assert answer.content["bytes"] == len(b'{"model": "auto"}')
    assert (first.calls, second.calls) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("behaviour", "path"),
    [
        ("close", GENERATES),
        ("close", "/v1/messages"),
        ("close", "/v1/route"),
        ("502", GENERATES),
        ("503", GENERATES),
    ],
)
def test_with_two_dead_replicas_there_are_two_tries_and_an_error(door: Door, behaviour: str, path: str) -> None:
    first, second = door.servers["engine"], door.servers["second_engine"]
    first.behaviour = second.behaviour = behaviour
    before = first.calls + second.calls
    answer = door.ask(path)
    assert first.calls + second.calls == before + 2
    assert answer.status == (503 if behaviour == "503" else 502)
    if behaviour == "close":  # else it is the replica's own answer that goes on
        assert answer.headers["retry-after"] == "2"
        kinds = {"/v1/messages": "api_error"}
        assert answer.error["type"] == kinds.get(path, "service_unavailable")


@pytest.mark.parametrize("behaviour", ["", "400", "404", "429", "500", "504"])
def test_any_other_answer_is_not_tried_again(door: Door, behaviour: str) -> None:
    first, second = door.servers["engine"], door.servers["second_engine"]
    first.behaviour = behaviour
    before = first.calls, second.calls
    assert door.ask().content["server"] == "engine"
    assert (first.calls, second.calls) == (before[0] + 1, before[1])


def test_a_body_over_the_buffer_is_not_tried_again(door: Door) -> None:
    door.servers["engine"].behaviour = "close"
    before = door.servers["second_engine"].calls
    # On a connection that it had kept, HAProxy says nothing: the client's library may try again by itself.
    with contextlib.suppress(http.client.RemoteDisconnected):
        assert door.ask(body=b" " * (2 * FORWARDED_BODY_BYTES)).status == 502
    assert door.servers["second_engine"].calls == before


def test_a_change_of_the_market_is_never_tried_again(door: Door) -> None:
    other = door.servers["other"]
    other.behaviour = "close"
    before = other.calls
    assert door.ask("/metrics").status == 502
    assert other.calls == before + 1


def test_with_no_replica_left_the_answer_is_503_that_says_when_to_come_again(tmp_path: Path) -> None:
    with opened(tmp_path, settings()) as door:
        for name in ("engine", "fallback"):
            door.servers[name].dead = True
        connection = http.client.HTTPConnection(LOOPBACK, door.port, timeout=15)
        for _ in range(60):
            connection.request("POST", GENERATES, b"{}")
            response = connection.getresponse()
            response.read()
            if response.status == 503:
                break
            threading.Event().wait(0.1)
        assert (response.status, response.headers["retry-after"]) == (503, "2")
        connection.close()


def test_a_replica_that_refuses_connections_is_passed_over(tmp_path: Path) -> None:
    with opened(tmp_path, settings(), two_engines=True) as door:
        engine = door.servers["engine"]
        port = engine.server_port
        engine.dead = True
        engine.shutdown()
        engine.server_close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port), timeout=1)
        assert door.ask().content["server"] == "second_engine"
