"""Spans of router and replica, as they arrive at a real collector."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.selection import Candidate, Choice
from serving.access.account import TokenCount
from serving.access.caller import caller
from serving.access.tenant import Tenant
from serving.names import GENERATING_PATHS
from serving.tracing.context import TraceContext, parse_context
from serving.tracing.replica import Traced, adapter_wait, asked, engine_run, server_span
from serving.tracing.router import MOST_CANDIDATES, RouterTracing
from serving.tracing.spans import TraceOptions, Tracing
from specs.errors import AdapterUnavailable
from tests.serving.tracing.collector import Collector, Seen, collecting

CHAT = "/v1/chat/completions"
TRACE, EDGE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "53995c3f42cd8ad8"
CAME = 1764320000123456  # µs
SERVER, ERROR = 2, 2


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def headers(sampled: bool = True, parent: str = CLIENT, came: int = CAME) -> dict[str, str]:
    """As the edge sends them."""
    context = TraceContext(TRACE, EDGE, sampled).header()
    return {"traceparent": context, "x-learnware-edge": f"{came}-{parent}", "x-request-id": "r-1", "tracestate": "a=1"}


def run(tokens: TokenCount, metrics: Any, *, reason: str | None = "stop") -> None:
    """One run of the engine with two outputs, as the gate passes them on."""
    with engine_run(tokens) as note:
        for ids, ended in (([1], None), ([2, 3], reason)):
            sequence = SimpleNamespace(index=0, token_ids=ids, finish_reason=ended)
            output = SimpleNamespace(prompt_token_ids=[7] * 5, outputs=[sequence], metrics=metrics)
            tokens.see(output)
            note(output)


def metrics(**later: float) -> Any:
    """vLLM's times of a request that came two seconds ago; 0 is what has not happened."""
    now = time.monotonic()
    marks = {"queued_ts": now - 2, "scheduled_ts": now - 1.5, "first_token_ts": now - 1, "last_token_ts": now - 0.25}
    return SimpleNamespace(**marks | later)


class Replica:
    """An application behind `Traced` that does what a replica's does, as far as spans are concerned."""

    def __init__(self, tracing: Tracing | None) -> None:
        self.seen: dict[str, str] = {}
        self.status = 200
        self.error: Exception | None = None
        self.in_engine: Callable[[], None] = lambda: run(TokenCount(incremental=True), metrics())
        self.app = FastAPI()
        self.app.add_middleware(Traced, tracing=tracing, paths=frozenset(GENERATING_PATHS))
        self.app.post("/{path:path}")(self.answer)
        self.app.get("/{path:path}")(self.answer)

    async def answer(self, request: Request, path: str) -> Any:
        self.seen = dict(request.headers)
        token = caller.set(Tenant("acme"))
        asked("auto")
        caller.reset(token)
        async with adapter_wait("finance@1", _loaded()):
            self.in_engine()
        if self.error is not None:
            raise self.error
        answered = {"x-learnware": "finance", "x-learnware-reason": "matched", "x-learnware-score": "0.9000"}

        async def events() -> AsyncIterator[bytes]:
            yield b'data: {"id":"chatcmpl-r-1","object":"chat.completion.chunk"}\n\n'
            yield b'data: {"id":"other"}\n\n'

        return StreamingResponse(events(), self.status, answered, media_type="text/event-stream")

    async def ask(self, path: str = CHAT, given: dict[str, str] | None = None, method: str = "POST") -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, json={}, headers=headers() if given is None else given)


@asynccontextmanager
async def _loaded() -> AsyncIterator[None]:
    await asyncio.sleep(0.02)
    yield


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Tracing]:
    one = Tracing("engine", TraceOptions(collector.url, 1.0))
    yield one
    one.end()


def check_tree(spans: list[Seen]) -> None:
    """One trace, and every parent is there but the client's."""
    assert {one.trace for one in spans} == {TRACE}
    known = {one.span for one in spans}
    assert len(known) == len(spans)
    assert {one.parent for one in spans} - known == {CLIENT}
    assert all(one.end >= one.start > 0 for one in spans)


async def test_a_request_is_one_trace(collector: Collector, tracing: Tracing) -> None:
    replica = Replica(tracing)
    before = time.time_ns()
    assert (await replica.ask()).status_code == 200
    tracing.flush()
    parts = ["learnware.adapter", "learnware.decode", "learnware.prefill", "learnware.queue"]
    assert collector.names() == ["POST /v1/chat/completions", "chat auto", *parts]
    check_tree(collector.spans)
    edge, server = collector.one("POST /v1/chat/completions"), collector.one("chat auto")
    assert (edge.service, edge.span, edge.parent, edge.start) == ("learnware-edge", EDGE, CLIENT, CAME * 1000)
    assert (edge.kind, edge.attributes["http.response.status_code"]) == (SERVER, 200)
    assert (server.service, server.parent, server.kind, server.state) == ("learnware-engine", EDGE, SERVER, "a=1")
    assert edge.end >= server.end >= server.start >= before
    assert {one.parent for one in collector.spans if one.name in parts} == {server.span}
    assert server.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "auto",
        "gen_ai.response.model": "finance",
        "gen_ai.response.id": "chatcmpl-r-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": CHAT,
        "url.path": CHAT,
        "learnware.reason": "matched",
        "learnware.request_id": "r-1",
        "learnware.score": 0.9,
        "learnware.tenant": "acme",
    }
    assert set(collector.requests) == {("/v1/traces", "application/x-protobuf")}


async def test_the_parts_have_the_engines_times(collector: Collector, tracing: Tracing) -> None:
    replica = Replica(tracing)
    now = time.time()
    await replica.ask()
    tracing.flush()
    marks = [(-2.0, -1.5), (-1.5, -1.0), (-1.0, -0.25)]
    for name, (start, end) in zip(("queue", "prefill", "decode"), marks, strict=True):
        part = collector.one(f"learnware.{name}")
        assert part.start / 1e9 - now == pytest.approx(start, abs=0.2)
        assert (part.end - part.start) / 1e9 == pytest.approx(end - start, abs=0.001)
    wait = collector.one("learnware.adapter")
    assert 0.015 < (wait.end - wait.start) / 1e9 < 0.5
    assert wait.attributes == {"learnware.adapter": "finance@1"}


async def test_what_did_not_happen_in_the_engine_has_no_part(collector: Collector, tracing: Tracing) -> None:
    replica = Replica(tracing)
    never_begun = metrics(scheduled_ts=0.0, first_token_ts=0.0, last_token_ts=0.0)
    never_answered = metrics(first_token_ts=0.0, last_token_ts=0.0)
    of_another_machine = metrics(scheduled_ts=time.monotonic() + 99, first_token_ts=time.monotonic() + 100)
    parts = [(never_begun, set()), (never_answered, {"queue"}), (of_another_machine, set()), (None, set())]
    for times, happened in parts:
        collector.spans.clear()
        replica.in_engine = lambda times=times: run(TokenCount(incremental=True), times)  # type: ignore[misc]
        await replica.ask()
        tracing.flush()
        found = {name.removeprefix("learnware.") for name in collector.names() if name.startswith("learnware.")}
        assert found == happened | {"adapter"}
        assert collector.one("chat auto").attributes["gen_ai.usage.output_tokens"] == 3


async def test_vllms_own_span_is_a_child_and_keeps_the_state(collector: Collector, tracing: Tracing) -> None:
    replica = Replica(tracing)
    await replica.ask()
    tracing.flush()
    context = parse_context(replica.seen["traceparent"])
    assert context == TraceContext(TRACE, collector.one("chat auto").span, True)
    assert replica.seen["tracestate"] == "a=1"


async def test_a_clients_that_is_not_sampled_records_nothing(collector: Collector, tracing: Tracing) -> None:
    replica = Replica(tracing)
    given = headers(sampled=False)
    await replica.ask(given=given)
    tracing.flush()
    assert collector.spans == []
    assert replica.seen["traceparent"] == given["traceparent"]
    assert server_span.get() is None


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/tokenize"), ("POST", "/v1/models")])
async def test_what_generates_nothing_records_nothing(
    collector: Collector, tracing: Tracing, method: str, path: str
) -> None:
    replica = Replica(tracing)
    await replica.ask(path, method=method)
    tracing.flush()
    assert collector.spans == []


@pytest.mark.parametrize("share", [0.0, 1.0])
async def test_without_the_edge_a_trace_begins_at_the_replica(collector: Collector, share: float) -> None:
    tracing = Tracing("engine", TraceOptions(collector.url, share))
    replica = Replica(tracing)
    await replica.ask(given={})
    tracing.end()
    assert len(collector.spans) == (5 if share else 0)
    if share:
        server = collector.one("chat auto")
        assert server.parent == ""
        assert {one.trace for one in collector.spans} == {server.trace}


async def test_a_trace_that_begins_at_the_edge_has_the_edges_span_as_its_root(
    collector: Collector, tracing: Tracing
) -> None:
    replica = Replica(tracing)
    await replica.ask("/v1/completions", headers(parent=""))
    tracing.flush()
    edge = collector.one("POST /v1/completions")
    assert (edge.trace, edge.span, edge.parent) == (TRACE, EDGE, "")
    assert collector.one("text_completion auto").parent == EDGE


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_refusal_is_told(collector: Collector, tracing: Tracing, status: int) -> None:
    replica = Replica(tracing)
    replica.status = status
    await replica.ask()
    tracing.flush()
    for name in ("chat auto", "POST /v1/chat/completions"):
        span = collector.one(name)
        assert span.attributes["http.response.status_code"] == status
        assert (span.status == ERROR) == (status >= 500)
        assert span.attributes.get("error.type") == (str(status) if status >= 500 else None)
    assert "gen_ai.response.id" not in collector.one("chat auto").attributes


async def test_a_try_that_the_edge_repeats_leaves_the_edges_span_to_the_next(
    collector: Collector, tracing: Tracing
) -> None:
    replica = Replica(tracing)
    replica.status = 502
    await replica.ask()
    replica.status = 200
    await replica.ask()
    tracing.flush()
    assert collector.one("POST /v1/chat/completions").attributes["http.response.status_code"] == 200
    tries = [one for one in collector.spans if one.name == "chat auto"]
    assert [one.attributes["http.response.status_code"] for one in tries] == [502, 200]


async def test_what_fails_is_named(collector: Collector, tracing: Tracing) -> None:
    replica = Replica(tracing)

    def dies() -> None:
        with engine_run(TokenCount(incremental=True)):
            raise ConnectionResetError

    replica.in_engine = dies
    await replica.ask()
    tracing.flush()
    server = collector.one("chat auto")
    assert server.status == ERROR
    assert server.attributes["http.response.status_code"] == 500
    assert server.attributes["error.type"] == "ConnectionResetError"
    assert collector.one("POST /v1/chat/completions").attributes["http.response.status_code"] == 500


async def test_a_wait_for_an_adapter_that_fails_is_told(collector: Collector, tracing: Tracing) -> None:
    @asynccontextmanager
    async def never() -> AsyncIterator[None]:
        raise AdapterUnavailable("gone")
        yield

    async def answer(_: Request) -> Any:
        with pytest.raises(AdapterUnavailable):
            async with adapter_wait("finance@1", never()):
                pass
        return JSONResponse({})

    app = Starlette(routes=[Route(CHAT, answer, methods=["POST"])])
    app.add_middleware(Traced, tracing=tracing, paths=frozenset(GENERATING_PATHS))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        await client.post(CHAT, headers=headers())
    tracing.flush()
    assert collector.one("learnware.adapter").attributes["error.type"] == "AdapterUnavailable"


async def test_without_traces_nothing_is_wrapped_or_recorded() -> None:
    inner = _loaded()
    assert adapter_wait("finance@1", inner) is inner
    assert engine_run(TokenCount(incremental=True)) is engine_run(TokenCount(incremental=False))
    replica = Replica(None)
    assert (await replica.ask()).status_code == 200
    assert replica.seen["traceparent"] == headers()["traceparent"]


def test_without_traces_the_sdk_is_not_imported() -> None:
    modules = "serving.tracing.replica, serving.tracing.router, serving.tracing.logs"
    show = f"import sys, {modules}; serving.tracing.router.RouterTracing(None); print('\\n'.join(sys.modules))"
    command = [sys.executable, "-c", show]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert "serving.tracing.replica" in loaded
    assert not [name for name in loaded if name.startswith("opentelemetry")]


def choice(count: int = 2) -> Choice:
    candidates = tuple(Candidate(f"c{number}", 0.5, 1.0, number / 100) for number in range(count))
    return Choice("finance", 0.9, 0.8, "matched", candidates, 0.25, (), 0.5)


async def route(watch: RouterTracing, status: int, decided: Choice | None, given: dict[str, str]) -> None:
    async def answer(_: Request) -> Any:
        if decided is not None:
            watch.decided(decided, 0.004)
        return JSONResponse({}, status)

    app = Starlette(routes=[Route("/internal/route", answer, methods=["POST"])], middleware=[Middleware(watch.around)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.post("/internal/route", headers=given)).status_code == status


async def test_a_choice_is_a_span_beside_the_replicas(collector: Collector, tracing: Tracing) -> None:
    watch = RouterTracing(TraceOptions(collector.url, 1.0))
    await route(watch, 200, choice(), headers())
    await Replica(tracing).ask()
    assert watch._tracing is not None
    watch._tracing.end()
    tracing.flush()
    check_tree(collector.spans)
    decide = collector.one("learnware.decide")
    assert (decide.service, decide.parent) == ("learnware-router", EDGE)
    assert decide.parent == collector.one("chat auto").parent
    assert decide.attributes == {
        "learnware.request_id": "r-1",
        "learnware.learnware": "finance",
        "learnware.reason": "matched",
        "learnware.score": 0.9,
        "learnware.confidence": 0.8,
        "learnware.base": 0.25,
        "learnware.bound": 0.5,
        "learnware.waited_ms": 4.0,
        "learnware.candidates": ["c0", "c1"],
        "learnware.candidates.expected": [0.0, 0.01],
        "learnware.candidates.score": [0.5, 0.5],
    }


async def test_a_router_tells_of_refusals_and_not_of_what_it_did_not_decide(collector: Collector) -> None:
    watch = RouterTracing(TraceOptions(collector.url, 1.0))
    await route(watch, 200, None, headers())
    await route(watch, 200, choice(), headers(sampled=False))
    await route(watch, 429, None, headers())
    await route(watch, 200, choice(99), headers())
    assert watch._tracing is not None
    watch._tracing.end()
    refused, made = (one for one in collector.spans if one.name == "learnware.decide")
    assert (refused.status, refused.attributes["error.type"]) == (ERROR, "429")
    assert len(made.attributes["learnware.candidates"]) == MOST_CANDIDATES
    assert made.attributes["learnware.candidates"][0] == "c0"
    edge = collector.one("POST")
    assert (edge.service, edge.span, edge.parent, edge.start) == ("learnware-edge", EDGE, CLIENT, CAME * 1000)
    assert edge.attributes["http.response.status_code"] == 429
    assert len(collector.spans) == 3


@pytest.mark.slow
async def test_a_collector_that_is_down_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with collecting() as gone:
        pass
    tracing = Tracing("engine", TraceOptions(gone.url, 1.0))
    replica = Replica(tracing)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            began = time.perf_counter()
            assert (await replica.ask()).status_code == 200
            assert time.perf_counter() - began < 0.5
            await asyncio.sleep(0.1)
        began = time.perf_counter()
        tracing.end()
        assert time.perf_counter() - began < 4
    told = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len({record.msg for record in told}) == len(told) <= 2
    assert {record.levelname for record in told} <= {"WARNING"}


def test_the_ids_of_answers_are_found_in_every_apis_form() -> None:
    from serving.tracing.replica import _ID

    forms = [
        json.dumps({"id": "chatcmpl-1", "object": "chat.completion"}),
        'data: {"id":"chatcmpl-1","choices":[]}\n\n',
        'event: response.created\ndata: {"response":{"id":"chatcmpl-1","created_at":1}}\n\n',
        'event: message_start\ndata: {"type":"message_start","message":{"id":"chatcmpl-1"}}\n\n',
    ]
    for form in forms:
        found = _ID.search(form.encode())
        assert found is not None
        assert found[1] == b"chatcmpl-1"
    assert re.search(_ID, b'{"error": {"message": "x"}}') is None
