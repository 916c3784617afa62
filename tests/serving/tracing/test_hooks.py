"""Router, middlewares, gate and small applications tell their spans and log lines what they know."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve")

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serving.access.keyring import Keyring
from serving.applications.routing import PrefixedApplication
from serving.config import Config
from serving.config_insight import TraceSettings
from serving.names import is_allowed
from serving.replica.admission import Admission
from serving.replica.front_door import add_front_door
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.request_metrics import ReplicaMetrics
from serving.tracing.context import Correlation, correlation
from serving.tracing.replica import ServerSpan, Traced, add_traces, prepare_vllm, server_span, trace_vllm
from serving.tracing.router import RouterTracing
from serving.tracing.spans import Span, TraceOptions, Tracing
from tests.router.test_deployment import QUESTION, body, make_router
from tests.serving.replica.middleware_client import NAMES, SECRET, choice, echo_app
from tests.serving.tracing.collector import Collector, collecting
from tests.serving.tracing.test_spans import CHAT, TRACE, headers

__all__ = ["make_router"]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def _begun(tracing: Tracing) -> Span:
    span = tracing.begin("chat", Correlation(), {})
    assert span is not None
    return span


async def post(app: Any, path: str, content: Any, given: dict[str, str]) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", timeout=60) as client:
        return await client.post(
            path,
            content=content if isinstance(content, bytes) else json.dumps(content).encode(),
            headers={"content-type": "application/json"} | given,
        )


@pytest.mark.slow
async def test_the_routers_own_choice_is_in_its_span(make_router: Any, collector: Collector) -> None:
    watch: list[RouterTracing] = []

    def made() -> RouterTracing:
        watch.append(RouterTracing(TraceOptions(collector.url, 1.0)))
        return watch[0]

    app = await make_router(watch=made).__serve_build_asgi_app__()
    for model in ("auto", "finance-tfns"):
        assert (await post(app, "/internal/route", body(model, QUESTION), headers())).status_code == 200
    assert watch[0]._tracing is not None
    watch[0]._tracing.end()
    decide = collector.one("learnware.decide")  # the one that names its model decides nothing
    assert (decide.trace, decide.attributes["learnware.reason"]) == (TRACE, "matched")
    assert decide.attributes["learnware.learnware"] in decide.attributes["learnware.candidates"]


@pytest.mark.slow
async def test_a_router_without_a_watch_routes(make_router: Any) -> None:
    app = await make_router().__serve_build_asgi_app__()
    assert (await post(app, "/internal/route", body("auto", QUESTION), headers())).status_code == 200
    assert app.user_middleware[0].cls is not None


@pytest.mark.parametrize(
    ("model", "answering", "status"), [("auto", "finance-tfns", 200), ("base-8b", "base-8b", 200), ("nix", None, 404)]
)
async def test_who_was_asked_and_who_answers_is_in_the_replicas_span(
    collector: Collector, model: str, answering: str | None, status: int
) -> None:
    tracing = Tracing("engine", TraceOptions(collector.url, 1.0))
    metrics = ReplicaMetrics(CollectorRegistry())
    inner = LearnwareMiddleware(echo_app, admission=Admission(NAMES), secret=SECRET, metrics=metrics)
    app = Traced(inner, tracing=tracing, paths=frozenset({CHAT}))
    assert (await post(app, CHAT, {"model": model}, headers() | choice())).status_code == status
    tracing.end()
    span = collector.one(f"chat {model}")
    assert span.attributes["gen_ai.request.model"] == model
    assert span.attributes.get("gen_ai.response.model") == answering
    assert span.attributes["http.response.status_code"] == status


async def test_traces_stand_before_the_front_door(collector: Collector) -> None:
    app = FastAPI()
    add_front_door(app, Keyring(), is_allowed)
    tracing = add_traces(app, TraceOptions(collector.url, 1.0))
    assert tracing is not None
    assert (await post(app, CHAT, {}, headers())).status_code == 404  # no such route: FastAPI's own answer
    tracing.end()
    assert collector.one("chat").attributes["http.response.status_code"] == 404
    assert add_traces(app, None) is None
    assert [one.cls for one in app.user_middleware][:3].count(Traced) == 2


@pytest.mark.vllm
@pytest.mark.slow
async def test_a_run_through_the_gate_is_in_the_replicas_span(collector: Collector) -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.metrics.stats import RequestStateStats

    from serving.paging.gate import AdapterGate

    now = time.monotonic()
    stats = RequestStateStats(queued_ts=now - 2, scheduled_ts=now - 1, first_token_ts=now - 0.5, last_token_ts=now)

    async def generate(*_: Any, **__: Any) -> AsyncIterator[Any]:
        sequence = SimpleNamespace(index=0, token_ids=[1, 2, 3], finish_reason="length")
        yield SimpleNamespace(prompt_token_ids=[1, 2], outputs=[sequence], metrics=stats)

    tracing = Tracing("engine", TraceOptions(collector.url, 1.0))
    span = ServerSpan(_begun(tracing), "chat")
    before = server_span.set(span)
    try:
        outputs = AdapterGate("nobody", 1).around(generate)("a prompt", SamplingParams(), "id")
        assert [one async for one in outputs]
    finally:
        server_span.reset(before)
    span.span.end()
    tracing.end()
    assert collector.names() == ["chat", "learnware.decode", "learnware.prefill", "learnware.queue"]
    assert collector.one("chat").attributes == {
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["length"],
    }


@pytest.mark.vllm
@pytest.mark.slow
async def test_a_replicas_wait_for_an_adapter_is_in_its_span(collector: Collector) -> None:
    from serving.replica.server import LearnwareServer

    server: Any = SimpleNamespace(
        _adapters=SimpleNamespace(request=lambda name: name, entry=lambda name: name),
        _failures=SimpleNamespace(watching=lambda _entry, inner: inner),
        _gate=SimpleNamespace(hold=lambda _: nullcontext()),
    )
    tracing = Tracing("engine", TraceOptions(collector.url, 1.0))
    span = ServerSpan(_begun(tracing), "chat")
    before = server_span.set(span)
    try:
        async with LearnwareServer._hold(server, "finance@1"):
            pass
    finally:
        server_span.reset(before)
    tracing.end()
    assert collector.one("learnware.adapter").attributes == {"learnware.adapter": "finance@1"}


@pytest.mark.vllm
@pytest.mark.slow
def test_vllms_own_span_comes_over_http_below_the_replicas_and_never_alone(collector: Collector) -> None:
    """As vLLM 0.29 makes it (`vllm/v1/engine/output_processor.py`, `do_tracing`)."""
    program = f"""
        from serving.tracing.replica import prepare_vllm, trace_vllm
        from serving.tracing.spans import TraceOptions
        prepare_vllm()
        from vllm.tracing import SpanKind, extract_trace_context, init_tracer, instrument_manual
        init_tracer("vllm.llm_engine", trace_vllm(TraceOptions({collector.url!r}, 1.0))["otlp_traces_endpoint"])
        for parent in ({headers()["traceparent"]!r}, {headers(sampled=False)["traceparent"]!r}):
            context = extract_trace_context({{"traceparent": parent}})
            instrument_manual("llm_request", 1, attributes={{}}, context=context, kind=SpanKind.SERVER)
        instrument_manual("llm_request", 1, attributes={{}}, context=None, kind=SpanKind.SERVER)
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, check=True, timeout=200, env=environment, capture_output=True)
    span = collector.one("llm_request")
    assert (span.service, span.trace, span.parent) == (
        "learnware-engine",
        TRACE,
        headers()["traceparent"].split("-")[2],
    )


@pytest.mark.vllm
@pytest.mark.slow
def test_vllm_and_router_trace_where_the_configuration_says_so() -> None:
    from serving.app import engine_arguments, router_watch, trace_options

    traced = Config.model_validate({"traces": {"otlp_endpoint": "http://a:4318", "sample": 0.25}})
    assert engine_arguments(traced)["otlp_traces_endpoint"] == "http://a:4318/v1/traces"
    assert trace_options(traced) == TraceOptions("http://a:4318", 0.25)
    watch = router_watch(traced)
    assert isinstance(watch, partial)
    assert (watch.func, watch.args) == (RouterTracing, (TraceOptions("http://a:4318", 0.25),))
    assert "otlp_traces_endpoint" not in engine_arguments(Config())
    assert router_watch(Config()) is trace_options(Config()) is None
    logs = router_watch(Config.model_validate({"traces": {"logs": "json"}}))
    assert isinstance(logs, partial)
    assert logs.args == (None,)


def test_an_operators_own_settings_of_vllms_spans_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_SERVICE_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    prepare_vllm()
    assert os.environ["OTEL_TRACES_SAMPLER"] == "always_on"
    assert os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"
    assert trace_vllm(TraceOptions("http://a", 1.0)) == {"otlp_traces_endpoint": "http://a/v1/traces"}


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://a:4317", "http://", "", "/v1/traces"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="must be the URL of a collector"):
        TraceSettings(otlp_endpoint=endpoint)
    assert TraceSettings(otlp_endpoint="https://a.example/otlp").otlp_endpoint == "https://a.example/otlp"


async def test_a_small_applications_log_lines_have_the_ids(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def answer(_: Request) -> JSONResponse:
        await asyncio.sleep(0)
        seen.append(correlation.get())
        logging.getLogger("ray.serve").warning("asked")
        return JSONResponse({})

    app = PrefixedApplication([Route("/v1/things", answer, methods=["POST"])])
    await post(app, "/v1/things", {}, headers())
    assert (seen[0].request_id, seen[0].trace_id) == ("r-1", TRACE)
    assert correlation.get() is None
