"""Limits of tenants at the real HAProxy: requests a minute, requests at once, and a fair share of all."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.access.keyring import digest_of
from serving.edge.answers import FULL_SPREAD_S
from serving.edge.tenants import LARGEST_RATE
from tests.serving.edge.door import GENERATES, LOOPBACK, Answer, Door, opened, settings

pytestmark = pytest.mark.slow  # a real HAProxy

TOTAL = 8
KEYS = {
    "free": {},
    "few": {"requests_per_minute": 2},
    "fast": {"requests_per_minute": 600},
    "drip": {"requests_per_minute": 3},
    "narrow": {"concurrent_requests": 2},
    "many": {},
    "little": {},
    "any": {"requests_per_minute": LARGEST_RATE + 1},
}


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer key of {name}"}


def key_file(path: Path, keys: dict[str, dict[str, Any]]) -> Path:
    entries = [{"name": name, "sha256": digest_of(f"key of {name}"), **limits} for name, limits in keys.items()]
    path.with_suffix(".new").write_text(json.dumps({"format": 1, "keys": entries}))
    path.with_suffix(".new").replace(path)
    return path


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    file = key_file(tmp_path_factory.mktemp("k") / "keys.json", KEYS)
    edge = settings(keys={"file": str(file)})._replace(total_requests=TOTAL)
    with opened(tmp_path_factory.mktemp("e"), edge) as one:
        yield one


@contextlib.contextmanager
def running(door: Door, name: str, count: int) -> Iterator[list[socket.socket]]:
    """Requests of a tenant that run until the block ends, one connection each."""
    engine = door.servers["engine"]
    engine.behaviour = "hold"
    engine.released.clear()
    before = engine.calls
    head = (
        f"POST {GENERATES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer key of {name}\r\ncontent-length: 2\r\n\r\n{{}}"
    )
    connections = []
    try:
        for _ in range(count):
            connections.append(socket.create_connection((LOOPBACK, door.port), timeout=10))
            connections[-1].sendall(head.encode())
        deadline = time.monotonic() + 5
        while engine.calls < before + count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.calls == before + count
        engine.behaviour = ""
        yield connections
    finally:
        engine.behaviour = ""
        engine.released.set()
        for each in connections:
            each.recv(100)
            each.close()
        time.sleep(0.05)


def test_requests_beyond_a_minutes_are_429_that_says_when(door: Door) -> None:
    answers = [door.ask(headers=bearer("few")) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-limit-requests"] for answer in answers] == ["2"] * 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert answers[0].headers["x-ratelimit-reset-requests"] == "30s"
    assert answers[2].headers["retry-after"] in {"29", "30"}
    assert (answers[2].error["type"], answers[2].error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    anthropic = door.ask("/v1/messages", bearer("few"))
    assert (anthropic.status, anthropic.error["type"]) == (429, "rate_limit_error")
    assert anthropic.content["type"] == "error"


def test_what_was_refused_does_not_count_and_nothing_behind_is_asked(door: Door) -> None:
    """A client that does not wait gets its share all the same: its bucket drains meanwhile."""
    for _ in range(3):
        assert door.ask(headers=bearer("drip")).status == 200
    before, waited = door.calls(), door.ask(headers=bearer("drip")).headers["retry-after"]
    for _ in range(50):
        assert door.ask(headers=bearer("drip")).status == 429
    assert door.calls() == before
    assert waited in {"19", "20"}
    assert int(door.ask(headers=bearer("drip")).headers["retry-after"]) <= int(waited)


def test_a_fast_limit_lets_in_what_drains(door: Door) -> None:
    answer = door.ask(headers=bearer("fast"))
    assert answer.headers["x-ratelimit-reset-requests"] == "100ms"
    time.sleep(0.15)
    assert door.ask(headers=bearer("fast")).headers["x-ratelimit-remaining-requests"] == "599"


def test_a_request_that_generates_nothing_does_not_count(door: Door) -> None:
    before = door.ask(headers=bearer("fast")).headers["x-ratelimit-remaining-requests"]
    for _ in range(5):
        answer = door.ask("/v1/models", bearer("fast"), method="GET")
        assert not [name for name in door.ask("/v1/route", bearer("fast")).headers if name.startswith("x-ratelimit")]
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert int(door.ask(headers=bearer("fast")).headers["x-ratelimit-remaining-requests"]) >= int(before) - 1


@pytest.mark.parametrize("name", ["free", "any"])
def test_a_tenant_without_a_limit_has_no_headers_of_one(door: Door, name: str) -> None:
    assert not [each for each in door.ask(headers=bearer(name)).headers if each.startswith("x-ratelimit")]


def refused(answer: Answer) -> bool:
    assert answer.status in {200, 429}
    assert answer.status == 200 or re.fullmatch("[1-9]", answer.headers["retry-after"])
    return answer.status == 429


def test_requests_at_once_are_counted_while_they_run(door: Door) -> None:
    with running(door, "narrow", 2):
        before = door.calls()
        assert all(refused(door.ask(headers=bearer("narrow"))) for _ in range(3))
        assert door.calls() == before
        assert not refused(door.ask(headers=bearer("free")))
    assert not refused(door.ask(headers=bearer("narrow")))


def test_when_all_is_full_who_has_more_than_its_share_is_refused_at_once(door: Door) -> None:
    with running(door, "many", TOTAL):
        before = door.calls()
        started = time.perf_counter()
        assert refused(door.ask(headers=bearer("many")))
        assert time.perf_counter() - started < 0.5
        again = {int(door.ask(headers=bearer("many")).headers["retry-after"]) for _ in range(20)}
        assert again <= set(range(1, FULL_SPREAD_S + 1)), again
        assert len(again) > 1  # not all at once
        assert door.calls() == before
        assert not refused(door.ask(headers=bearer("little")))
    assert not refused(door.ask(headers=bearer("many")))


def test_a_client_that_hangs_up_is_counted_out(door: Door) -> None:
    with running(door, "narrow", 2) as connections:
        connections.pop().close()
        deadline = time.monotonic() + 2
        while refused(door.ask(headers=bearer("narrow"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert time.monotonic() < deadline


def test_never_more_than_twice_the_total_is_let_in(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(4)]
    file = key_file(tmp_path / "keys.json", {name: {} for name in names})
    with opened(tmp_path, settings(keys={"file": str(file)})._replace(total_requests=1)) as door:
        with running(door, "t0", 1), running(door, "t1", 1):
            assert refused(door.ask(headers=bearer("t2")))
        assert not refused(door.ask(headers=bearer("t2")))


def test_without_keys_the_configured_limits_hold_for_everybody_together(tmp_path: Path) -> None:
    with opened(tmp_path, settings(limits={"requests_per_minute": 2})) as door:
        assert [door.ask(source=f"127.0.0.{number}").status for number in (1, 2, 3)] == [200, 200, 429]
