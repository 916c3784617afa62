"""`learnware-serving decisions`, against the application on a port of this machine."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

pytest.importorskip("ray.serve")

from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import Tenant
from serving.applications.access import Access
from serving.applications.decisions import DecisionsAPI
from serving.cli import decisions as module
from serving.cli.main import main
from serving.decisions.store import DecisionStore
from tests.serving.decisions.test_store import replica_half, router_half

NOW = time.time()
FIGURES: dict[str, Any] = {"tokens": {"prompt": 7, "generated": 3}, "ttft_s": 0.25, "seconds": 0.5}
CHOICE = {
    "learnware": "finance-tfns",
    "reason": "matched",
    "base": 0.4,
    "candidates": [{"learnware": "finance-tfns", "expected": 0.7, "score": 0.9}],
    "market": 3,
}


def half(number: int, tenant: str = "alice", **changes: Any) -> dict[str, Any]:
    return replica_half(number, tenant, **{**FIGURES, "time": NOW - 60 + number, **changes})


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    made = DecisionStore(tmp_path / "d", 100, 30)
    made.add([half(1), half(2, "bob", status=429, learnware=None, reason=None, ttft_s=None), router_half(1)])
    return made


@pytest.fixture
def url(store: DecisionStore) -> Iterator[str]:
    keys = Keyring(static=[(digest_of("alice-key"), Tenant("alice"))], admin_key="admin-key")

    async def replay(_: Any) -> dict[str, Any]:
        now = {**CHOICE, "learnware": None, "reason": "base:better", "market": 4}
        return {"differs": True, "why": "The base model would answer instead.", "then": CHOICE, "choice": now}

    application = DecisionsAPI(store, Access(keys), replay).application()
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def said(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> list[str]:
    assert main(["decisions", *arguments]) == status
    return capsys.readouterr().out.splitlines()


def test_list_has_a_line_for_each_the_newest_last(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = said(capsys, 0, "list", "--url", url, "--key", "admin-key")
    assert "request-1  alice  200  auto > finance-tfns  matched  7+3 tokens, first 0.25 s, 0.50 s" in first
    assert "request-2  bob  429  auto > –  –  7+3 tokens, 0.50 s" in second
    (own,) = said(capsys, 0, "list", "--url", url, "--key", "alice-key", "--json")
    assert json.loads(own)["tenant"] == "alice"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--status", "4xx"], 1),
        (["--task", "finance-tfns", "--learnware", "finance-tfns"], 1),
        (["--tenant", "bob"], 1),
        (["--reason", "named"], 0),
        (["--limit", "1"], 1),
        (["--before", f"{NOW - 58.5}"], 1),
        (["--after", "2020-01-01T00:00:00+00:00", "--before", "2020-01-02"], 0),
    ],
)
def test_filters(url: str, capsys: pytest.CaptureFixture[str], options: list[str], count: int) -> None:
    assert len(said(capsys, 0, "list", "--url", url, "--key", "admin-key", *options)) == count


def test_show_and_replay(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = "\n".join(said(capsys, 0, "show", "request-1", "--url", url, "--key", "alice-key"))
    assert json.loads(shown)["choice"]["learnware"] == "finance-tfns"
    lines = said(capsys, 1, "replay", "request-1", "--url", url, "--key", "alice-key")
    assert lines == [
        "The base model would answer instead.",
        "then: finance-tfns (matched); expected: base 0.400, finance-tfns 0.700; market's change 3",
        "now:  the base model (base:better); expected: base 0.400, finance-tfns 0.700; market's change 4",
    ]
    (found,) = said(capsys, 1, "replay", "request-1", "--url", url, "--key", "alice-key", "--json")
    assert json.loads(found)["differs"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["show", "request-2", "--key", "alice-key"], "No decision of a request 'request-2' of yours is kept"),
        (["show", "a/b", "--key", "alice-key"], "is no request's id"),
        (["list", "--key", "wrong"], "A valid API key is needed"),
        (["list", "--key", "admin-key", "--status", "so"], "status must be an HTTP status"),
        (["list", "--key", "admin-key", "--limit", "0"], "limit must be a whole number"),
        (["replay", "request-2", "--key", "admin-key"], "Nothing was chosen"),
    ],
)
def test_a_refusal_is_one_line(url: str, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str) -> None:
    assert main(["decisions", *arguments, "--url", url]) == 1
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 1)
    assert why in output.err


def test_no_stack_and_no_time_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decisions", "list", "--url", "http://127.0.0.1:9", "--key", "x"]) == 1
    assert "did not answer" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["decisions", "list", "--before", "yesterday"])
    assert "'yesterday' is no time" in capsys.readouterr().err


def test_tail_prints_what_comes_once_each_also_what_began_before(
    url: str, store: DecisionStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = [[half(3)], [], [half(4, time=NOW - 90), half(5, reason="named", model="\x1b[31m")]]

    def sleep(_: float) -> None:
        if not coming:
            raise KeyboardInterrupt
        store.add(coming.pop(0))

    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW, sleep=sleep))
    assert main(["decisions", "tail", "--url", url, "--key", "admin-key"]) == 130
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["request-3", "request-4", "request-5"]
    assert r"\x1b[31m" in lines[2]
