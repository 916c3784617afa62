"""Records on their way out: whole, without what must be erasable, and never at a request's cost."""

import http.server
import io
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.decisions.outlets import WAIT_S, JsonLines, OtlpLogs, Outlets
from serving.decisions.store import PAGE, DecisionStore
from serving.launch.decision_lines import DecisionLines
from specs.errors import DecisionsUnavailable
from tests.serving.decisions.test_store import replica_half, router_half


class Taken:
    def __init__(self) -> None:
        self.records: list[Any] = []
        self.closed = False

    def write(self, records: Any) -> None:
        self.records += records

    def close(self) -> None:
        self.closed = True


def keys_in(value: Any) -> set[str]:
    """Returns the names of all fields, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_record_goes_out_once_both_halves_are_there(tmp_path: Path) -> None:
    store, taken, clock = DecisionStore(tmp_path / "d", 10, 1e6, prompts=True), Taken(), Clock()
    outlets = Outlets(store, [taken], clock)

    def come(*parts: Any) -> None:
        store.add(parts)
        outlets.note(parts)
        outlets.emit()

    come(replica_half(1, text={"prompt": "secret", "answer": "x"}))
    assert not taken.records
    come(router_half(1))
    come(replica_half(2, decision=None))
    assert [one["id"] for one in taken.records] == ["request-1", "request-2"]
    assert taken.records[0]["choice"]["learnware"] == "finance-tfns"
    assert not {"text", "vectors", "ask", "prompt", "answer"} & keys_in(taken.records[0])
    come(replica_half(3))
    clock.now = WAIT_S
    outlets.emit()
    assert taken.records[2]["id"] == "request-3"
    come(replica_half(4))
    outlets.close()
    assert taken.closed
    assert len(taken.records) == 3  # its other half may still have come


def test_all_that_wait_are_read_in_one_look_for_each_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, taken = DecisionStore(tmp_path / "d", 1000, 1e6), Taken()
    outlets = Outlets(store, [taken], Clock())
    halves = [replica_half(number, ("alice", "bob")[number % 2], decision=None) for number in range(PAGE + 1)]
    store.add(halves)
    store.feedback("alice", "request-0", {"score": 1.0}, "alice")
    outlets.note(halves)
    opened = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **named: opened.append(1) or connect(*given, **named))
    outlets.emit()
    assert len(opened) == 2
    assert [(one["tenant"], one["id"]) for one in taken.records] == [(one["tenant"], one["id"]) for one in halves]
    assert [len(one["feedback"]) for one in taken.records] == [1] + PAGE * [0]


def test_records_wait_while_the_store_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, taken, clock = DecisionStore(tmp_path / "d", 10, 1e6), Taken(), Clock()
    outlets = Outlets(store, [taken], clock)
    halves = [replica_half(1), replica_half(2, decision=None)]
    store.add(halves)
    outlets.note(halves)

    def unavailable(_: object) -> Any:
        raise DecisionsUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "look", unavailable)
        outlets.emit()
    assert not taken.records
    outlets.emit()
    assert [one["id"] for one in taken.records] == ["request-2"]
    clock.now = WAIT_S
    outlets.emit()
    assert [one["id"] for one in taken.records] == ["request-2", "request-1"]


def test_lines_go_to_standard_output() -> None:
    stream = io.StringIO()
    JsonLines(stream=stream).write([{"id": "ü"}, {"id": "2"}])
    assert stream.getvalue() == '{"id":"\\u00fc"}\n{"id":"2"}\n'


def test_a_launcher_prints_them_as_whole_lines_and_may_be_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, stream = tmp_path / "s", io.StringIO()
    lines = JsonLines(str(path), stream)
    with DecisionLines(path):
        assert path.stat().st_mode & 0o777 == 0o600
        lines.write([{"id": number, "filling": 5000 * "x"} for number in range(20)])
        lines.close()
        other = JsonLines(str(path), stream)  # as a replica that takes the place of the first
        other.write([{"id": 20}])
        other.close()
        printed = ""
        for _ in range(100):
            printed += capsys.readouterr().out
            if printed.count("\n") == 21:
                break
            threading.Event().wait(0.05)
    assert [json.loads(line)["id"] for line in printed.splitlines()] == list(range(21))
    assert not path.exists()
    other.write([{"id": 21}])
    assert stream.getvalue() == '{"id":21}\n'


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector of OTLP's log records over HTTP, in this process."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    taken: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append((self.path, self.headers["content-type"], ExportLogsServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", taken
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_gets_each_record_as_a_log_record(collector: tuple[str, list[Any]]) -> None:
    url, taken = collector
    logs = OtlpLogs(url)
    record = {**replica_half(1), "tokens": {"prompt": 7, "generated": 3}, "stream": False, "choice": None}
    logs.write([record])
    logs.close()
    ((path, kind, request),) = taken
    assert (path, kind) == ("/v1/logs", "application/x-protobuf")
    ((sent,),) = [[*scope.log_records] for one in request.resource_logs for scope in one.scope_logs]
    assert json.loads(sent.body.string_value) == record
    assert (sent.event_name, sent.time_unix_nano) == ("learnware.decision", 1001 * 10**9)
    attributes = {one.key: one.value for one in sent.attributes}
    assert attributes["learnware.learnware"].string_value == "finance-tfns"
    assert attributes["learnware.status"].int_value == 200
    assert attributes["gen_ai.usage.output_tokens"].int_value == 3
    assert "learnware.tier" not in attributes
    (service,) = [
        one.value.string_value for one in request.resource_logs[0].resource.attributes if one.key == "service.name"
    ]
    assert service == "learnware-serving"
