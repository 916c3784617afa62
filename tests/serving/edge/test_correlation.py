"""Ids of requests, trace context and the paths of console and feedback, as they pass the real HAProxy."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.edge.correlation import EDGE_HEADER, REQUEST_ID
from serving.edge.template import TemplateChanged
from serving.names import CONSOLE_PATH, GENERATING_PATHS, is_allowed
from tests.serving.edge.door import GENERATES, LOOPBACK, Door, free_port, opened, settings, wrapper
from tests.serving.edge.haproxy_config import RenderedPorts, render

pytestmark = pytest.mark.slow  # a real HAProxy

KEY = "sk-key-of-nobody"
HELD = {"Authorization": f"Bearer {KEY}"}
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = f"00-{TRACE}-{SPAN}-01"
COLLECTOR = "http://127.0.0.1:4318"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Without spans, with all that is on by default."""
    with opened(tmp_path_factory.mktemp("e"), settings(api_keys=[KEY])) as door:
        yield door


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """With spans for half of the requests, without console and decisions."""
    sections = {"traces": {"otlp_endpoint": COLLECTOR, "sample": 0.5}}
    off = {"console": {"enabled": False}, "decisions": {"enabled": False}}
    with opened(tmp_path_factory.mktemp("e"), settings(api_keys=[KEY], **sections, **off)) as door:
        yield door


def ids_of(door: Door, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> list[str]:
    """Every value of the answer's header."""
    connection = http.client.HTTPConnection(LOOPBACK, door.port, timeout=15)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        return connection.getresponse().headers.get_all(REQUEST_ID) or []


@pytest.mark.parametrize("given", ["a", "Mine-1_2.3", "x" * 128])
def test_a_clients_id_goes_to_router_and_replica_and_comes_back_once(plain: Door, given: str) -> None:
    answer = plain.ask(headers=HELD | {"X-Request-Id": given})
    routers = (plain.servers["router"], plain.servers["second_router"])
    assert answer.content["headers"][REQUEST_ID] == given
    assert given in [router.headers.get(REQUEST_ID) for router in routers]
    assert ids_of(plain, "POST", GENERATES, HELD | {REQUEST_ID: given}, b"{}") == [given]


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a,b", "é", 'a"b', "a/b", "<script>", "a;b"], ids=repr)
def test_any_other_id_is_replaced(plain: Door, given: str | None) -> None:
    headers = HELD if given is None else HELD | {REQUEST_ID: given.encode("utf-8").decode("latin-1")}
    answer = plain.ask(headers=headers)
    assert UUID.fullmatch(answer.headers[REQUEST_ID])
    assert answer.content["headers"][REQUEST_ID] == answer.headers[REQUEST_ID]
    assert answer.headers[REQUEST_ID] != plain.ask(headers=headers).headers[REQUEST_ID]


def test_two_ids_in_one_request_are_replaced_by_one(plain: Door) -> None:
    head = f"POST {GENERATES} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: 2\r\nconnection: close\r\n"
    with socket.create_connection((LOOPBACK, plain.port), timeout=5) as client:
        client.sendall(f"{head}{REQUEST_ID}: one\r\n{REQUEST_ID}: two\r\n\r\n{{}}".encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        content = json.loads(response.read())
    assert UUID.fullmatch(content["headers"][REQUEST_ID])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/docs", HELD, 404),
        ("POST", GENERATES, {}, 401),
        ("POST", GENERATES, HELD | {"content-length": str(99 << 20)}, 413),
        ("GET", "/", {}, 302),
        ("GET", "/health", {}, 200),
        ("GET", "/metrics", HELD, 200),
        ("HEAD", CONSOLE_PATH, {}, 200),
        ("POST", "/v1/feedback", HELD, 200),
    ],
)
def test_every_answer_has_the_id_refusals_too(
    plain: Door, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    body = None if "content-length" in headers else b""
    connection = http.client.HTTPConnection(LOOPBACK, plain.port, timeout=15)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers | {REQUEST_ID: "asked-for"})
        response = connection.getresponse()
        assert (response.status, response.headers.get_all(REQUEST_ID)) == (status, ["asked-for"])


@pytest.mark.parametrize(("body", "status"), [(b"refuse", 429), (b"fail", 200)])
def test_the_id_comes_back_where_the_router_refuses_or_fails(plain: Door, body: bytes, status: int) -> None:
    answer = plain.ask(headers=HELD | {REQUEST_ID: "refused"}, body=body)
    assert (answer.status, answer.headers[REQUEST_ID]) == (status, "refused")


def test_an_answer_of_haproxys_own_has_an_id(tmp_path: Path) -> None:
    with opened(tmp_path, settings()) as door:
        for name in ("engine", "fallback"):
            door.servers[name].behaviour = "close"
        answer = door.ask(headers={REQUEST_ID: "nobody-there"})
        assert answer.status in {502, 503}
        assert answer.headers[REQUEST_ID] == "nobody-there"


@pytest.mark.parametrize("context", [CONTEXT, f"00-{TRACE}-{SPAN}-00", f"01-{TRACE}-{SPAN}-01-more"])
def test_a_clients_trace_context_reaches_router_and_replica(plain: Door, context: str) -> None:
    given = HELD | {"traceparent": context, "tracestate": "a=1,b=2", REQUEST_ID: context}
    arrived = plain.ask(headers=given).content["headers"]
    router = next(
        one
        for name, one in plain.servers.items()
        if one.headers.get(REQUEST_ID) and "router" in name and one.headers[REQUEST_ID] == context
    )
    for headers in (arrived, router.headers):
        assert (headers["traceparent"], headers["tracestate"]) == (context, "a=1,b=2")
        assert EDGE_HEADER not in headers


@pytest.mark.parametrize(
    "context",
    [
        "",
        "00",
        CONTEXT + "-more",
        CONTEXT + "0",
        CONTEXT.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"{CONTEXT}, {CONTEXT}",
        f" x{CONTEXT}",
    ],
)
def test_a_malformed_trace_context_is_dropped_with_its_state(plain: Door, context: str) -> None:
    arrived = plain.ask(headers=HELD | {"traceparent": context, "tracestate": "a=1"}).content["headers"]
    assert {"traceparent", "tracestate"} & set(arrived) == set()
    alone = plain.ask(headers=HELD | {"tracestate": "a=1"}).content["headers"]
    assert "tracestate" not in alone


def test_a_state_that_is_too_long_is_dropped_and_the_context_is_not(plain: Door) -> None:
    arrived = plain.ask(headers=HELD | {"traceparent": CONTEXT, "tracestate": "a=" + "x" * 511}).content["headers"]
    assert arrived["traceparent"] == CONTEXT
    assert "tracestate" not in arrived


def test_the_edges_span_stands_between_the_clients_and_what_answers(traced: Door) -> None:
    before = time.time()
    given = HELD | {"traceparent": CONTEXT, "tracestate": "a=1", EDGE_HEADER: "1-forged"}
    arrived = traced.ask(headers=given).content["headers"]
    version, trace, span, flags = arrived["traceparent"].split("-")
    assert (version, trace, flags, arrived["tracestate"]) == ("00", TRACE, "01", "a=1")
    assert re.fullmatch("[0-9a-f]{16}", span)
    assert span != SPAN
    came, parent = arrived[EDGE_HEADER].split("-")
    assert parent == SPAN
    assert before - 1 <= int(came) / 1e6 <= time.time() + 1
    routers = [traced.servers[name].headers for name in ("router", "second_router")]
    assert arrived["traceparent"] in [headers.get("traceparent") for headers in routers]
    assert arrived[EDGE_HEADER] in [headers.get(EDGE_HEADER) for headers in routers]


def test_a_trace_begins_at_the_edge_for_the_sampled_share(traced: Door) -> None:
    seen = [traced.ask(headers=HELD).content["headers"] for _ in range(60)]
    contexts = [headers["traceparent"].split("-") for headers in seen]
    assert len({trace for _, trace, _, _ in contexts}) == len({span for _, _, span, _ in contexts}) == len(contexts)
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for _, trace, _, _ in contexts)
    assert all(headers[EDGE_HEADER].endswith("-") for headers in seen)
    sampled = sum(flags == "01" for *_, flags in contexts)
    assert {flags for *_, flags in contexts} == {"00", "01"}
    assert 12 <= sampled <= 48  # 30 on average; outside it less than once in 100,000 runs


def test_no_trace_begins_for_what_generates_nothing(traced: Door) -> None:
    for method, path in (("GET", GENERATES), ("POST", "/tokenize"), ("GET", "/v1/models")):
        assert {"traceparent", EDGE_HEADER} & set(traced.ask(path, HELD, method=method).content["headers"]) == set()
    for path in GENERATING_PATHS:
        assert "traceparent" in traced.ask(path, HELD).content["headers"]


@pytest.mark.parametrize("path", ["/", "/console", "/%63onsole"])
def test_the_first_page_is_found(plain: Door, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = plain.ask(path, method=method)
        assert (answer.status, answer.headers["location"]) == (302, CONSOLE_PATH)
    assert plain.ask(path).status == 404


@pytest.mark.parametrize("path", [CONSOLE_PATH, "/console/app.js", "/console/a/b.css", "/console/apis.js"])
def test_the_consoles_files_need_no_key_and_keep_their_headers(plain: Door, path: str) -> None:
    assert is_allowed(path)
    for method in ("GET", "HEAD"):
        answer = plain.ask(path, method=method)
        assert answer.status == 200
        assert answer.headers["content-security-policy"] == "default-src 'self'"
        assert "access-control-allow-origin" not in answer.headers
    before = plain.calls()
    assert plain.ask(path).status == plain.ask(path, method="PUT").status == 401
    assert plain.calls() == before


@pytest.mark.parametrize("path", ["/console/api", "/console/api/live", "/console/%61pi/live", "/console/api%2Flive"])
def test_the_consoles_interface_needs_a_key(plain: Door, path: str) -> None:
    before = plain.calls()
    assert plain.ask(path, method="GET").status == 401
    assert plain.calls() == before
    assert plain.ask(path, HELD, method="GET").status == 200


@pytest.mark.parametrize("path", ["/console/../v1/models", "/console/./api/live", "/console//api/live", "/console/x/"])
def test_an_odd_path_below_the_console_is_none(plain: Door, path: str) -> None:
    assert not is_allowed(path)
    assert plain.ask(path, HELD, method="GET").status == 404


@pytest.mark.parametrize(("method", "name", "other"), [("POST", "feedback", "GET"), ("GET", "evaluations", "POST")])
def test_feedback_and_evaluations_go_on_under_the_path_of_the_decisions(
    plain: Door, method: str, name: str, other: str
) -> None:
    for written in (name, f"%{ord(name[0]):02x}{name[1:]}"):
        found = plain.ask(f"/v1/{written}?learnware=acme%2Fx", HELD, method=method).content["path"]
        assert found == f"/v1/decisions/{name}?learnware=acme%2Fx"
    assert plain.ask(f"/v1/{name}", {}, method=method).status == 401
    assert plain.ask(f"/v1/{name}", HELD, method=other).content["path"] == f"/v1/{name}"
    assert plain.ask(f"/v1/{name}/more", HELD, method=method).status == 404


@pytest.mark.parametrize(
    "path",
    ["/", "/console", CONSOLE_PATH, "/console/app.js", "/v1/feedback", "/v1/evaluations", "/v1/decisions/x"],
)
def test_what_is_not_configured_is_not_there(traced: Door, path: str) -> None:
    before = traced.calls()
    for method in ("GET", "POST"):
        assert traced.ask(path, HELD, method=method).status == 404
    assert traced.calls() == before


def test_the_log_is_json_where_all_logs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind((LOOPBACK, 0))
        syslog.settimeout(10)
        port = free_port()
        ports = RenderedPorts(http=port, exporter=free_port(), stats=free_port())
        config = render(tmp_path, monkeypatch, ports=ports)
        target = f"log {LOOPBACK}:{syslog.getsockname()[1]} local0"
        config.write_text(config.read_text().replace("log 127.0.0.1:514 local0", target))
        (tmp_path / "edge.json").write_text(settings(api_keys=[KEY], traces={"logs": "json"}).text())
        process = subprocess.Popen([*wrapper(tmp_path), "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        try:
            door = Door(port, {}, tmp_path, process)
            for _ in range(100):
                with contextlib.suppress(OSError):
                    door.ask('/v1/models/"\\x', headers={REQUEST_ID: "logged", "traceparent": CONTEXT}, method="GET")
                    break
                time.sleep(0.05)
            lines = (syslog.recv(9000).decode() for _ in range(100))
            line = json.loads(next(line[line.index("{") :] for line in lines if "logged" in line))
        finally:
            process.kill()
            process.wait()
    assert (line["request_id"], line["status"], line["method"]) == ("logged", 404, "GET")
    assert line["path"] == '/v1/models/"\\x'
    assert line["process"] == "edge"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])


def test_a_log_format_that_moved_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.edge.haproxy_wrapper import edit

    config = render(tmp_path, monkeypatch, ports=RenderedPorts()).read_text()
    moved = config.replace("    option httplog\n", "    option httplog clf\n")
    edit(moved, "/run", settings())
    with pytest.raises(TemplateChanged, match="the log's format"):
        edit(moved, "/run", settings(traces={"logs": "json"}))
