"""The traces of an engine replica: one server span a generating request, and its parts.

`Traced` is the outermost ASGI middleware. It begins the span, makes it the parent of vLLM's own (by the `traceparent`
that vLLM reads), and ends it when the answer is complete. What only the middlewares and the gate inside know they tell
by `asked`, `adapter_wait` and `engine_run`, which do nothing where no span is recorded. Attributes follow
OpenTelemetry's conventions for generative AI.
"""

import os
import re
import time
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access.caller import caller
from serving.names import GENERATING_PATHS
from serving.otlp import otlp_url
from serving.tracing.context import TRACEPARENT, Correlation, correlated, correlation
from serving.tracing.spans import PREFIX, TRACES_PATH, Span, TraceOptions, Tracing

_TRIED_AGAIN = 502
"""Status by which the edge tries another replica, which then records the edge's span."""

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/chat/completions/batch": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/cohere/v2/chat": "chat",
}
"""`gen_ai.operation.name` by path; elsewhere it is `text_completion`."""

_ID = re.compile(rb'"id": ?"([^"\\]{1,200})"')
"""The id of an answer, in the JSON of its body or of its first event."""
_BEGINNING = 600
"""Bytes of an answer in which its id stands: all APIs write it before any text."""
LONGEST_NAME = 128
"""Characters of a client's name for a model that a span repeats."""
_SOON_S = 1.0
"""Seconds by which the engine's clock may be ahead: it is the machine's own, in another process."""


def trace_vllm(options: TraceOptions) -> dict[str, Any]:
    """Returns vLLM's engine arguments for its own spans."""
    return {"otlp_traces_endpoint": otlp_url(options.endpoint, TRACES_PATH)}


def prepare_vllm() -> None:
    """Sets what vLLM 0.29 reads of its exporter from the environment (`vllm/tracing/otel.py`), before it starts: the
    protocol, the service's name, and that a request without a sampled parent (the replica's own trials) is no trace."""
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    os.environ.setdefault("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    os.environ.setdefault("OTEL_SERVICE_NAME", PREFIX + "engine")


class ServerSpan:
    """A recorded request on its way through the replica."""

    def __init__(self, span: Span, operation: str) -> None:
        self.span = span
        self.status = 0
        self._operation = operation

    def asked_for(self, model: str | None, tenant: str) -> None:
        """Takes note of the model that the client names, and of the tenant."""
        self.span.attributes["learnware.tenant"] = tenant
        if model:
            model = model[:LONGEST_NAME]
            self.span.attributes["gen_ai.request.model"] = model
            self.span.name = f"{self._operation} {model}"

    def took(self, prompt: int, generated: int, reasons: list[str]) -> None:
        """Adds the tokens of one run of the engine; one in the background may outlast the span."""
        if self.span.ended:
            return
        attributes = self.span.attributes
        for name, tokens in (("input", prompt), ("output", generated)):
            key = f"gen_ai.usage.{name}_tokens"
            attributes[key] = attributes.get(key, 0) + tokens
        if reasons:
            attributes["gen_ai.response.finish_reasons"] = reasons

    def headed(self, message: Message) -> None:
        """Takes note of an answer's head."""
        self.status = message["status"]
        attributes = self.span.attributes
        attributes["http.response.status_code"] = self.status
        for name, value in message.get("headers", ()):
            if name == b"x-learnware":
                attributes["gen_ai.response.model"] = value.decode()
            elif name == b"x-learnware-reason":
                attributes["learnware.reason"] = value.decode()
            elif name == b"x-learnware-score":
                attributes["learnware.score"] = float(value)
        if self.status >= 500:
            self.span.fail(str(self.status))

    def began(self, body: bytes) -> None:
        """Takes note of the beginning of an answer's body."""
        if self.status == 200 and (found := _ID.search(body[:_BEGINNING])):
            self.span.attributes["gen_ai.response.id"] = found[1].decode(errors="replace")

    def watching(self, send: Send) -> Send:
        """Returns an ASGI `send` that takes note of what passes."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            if not begun:
                if message["type"] == "http.response.start":
                    self.headed(message)
                elif body := message.get("body"):
                    begun = True
                    self.began(body)
            await send(message)

        return watched


server_span: ContextVar[ServerSpan | None] = ContextVar("server_span", default=None)
"""The running request's span; None where none is recorded."""


class Traced:
    """ASGI middleware (see the module). Without `tracing` it only makes the request's ids those of its log lines."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing | None, paths: frozenset[str]) -> None:
        """Wraps `app`; a POST to one of `paths` gets a span."""
        self._app = app
        self._tracing = tracing
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with correlated(scope) as found:
            if self._tracing is None or scope["path"] not in self._paths or scope["method"] != "POST":
                await self._app(scope, receive, send)
            else:
                await self._trace(self._tracing, found, scope, receive, send)

    async def _trace(self, tracing: Tracing, found: Correlation, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        operation = _OPERATIONS.get(path, "text_completion")
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "vllm",
            "http.request.method": "POST",
            "http.route": path,
            "url.path": path,
        }
        if found.request_id is not None:
            attributes["learnware.request_id"] = found.request_id
        span = tracing.begin(operation, found, attributes)
        if span is None:
            await self._app(scope, receive, send)
            return
        one = ServerSpan(span, operation)
        own = span.named()
        headers = [pair for pair in scope["headers"] if pair[0] != TRACEPARENT]
        scope = {**scope, "headers": [*headers, (TRACEPARENT, own.header().encode())]}
        before, ids = server_span.set(one), correlation.set(found._replace(context=own))
        try:
            await self._app(scope, receive, one.watching(send))
        except BaseException as error:
            if isinstance(error, Exception) and not one.status:
                one.headed({"status": 500})  # as Starlette answers it, outside of all middlewares
            span.fail(type(error).__name__)
            raise
        finally:
            correlation.reset(ids)
            server_span.reset(before)
            span.end()
            if found.edge is not None and found.context is not None and one.status != _TRIED_AGAIN:
                tracing.record_edge(found.edge, found.context, path, one.status, found.request_id)


def add_traces(app: FastAPI, options: TraceOptions | None) -> Tracing | None:
    """Puts `Traced` before all of vLLM's application, the front door included; returns what sends the spans, None
    without options.

    vLLM builds its middleware stack early; without the cached stack Starlette builds it again at the next request.
    """
    tracing = None if options is None else Tracing("engine", options)
    app.user_middleware.insert(0, Middleware(Traced, tracing=tracing, paths=frozenset(GENERATING_PATHS)))
    app.middleware_stack = None
    return tracing


def asked(model: str | None) -> None:
    """Tells the running request's span which model the client names."""
    current = server_span.get()
    if current is not None:
        current.asked_for(model, caller.get().name)


def adapter_wait(engine_name: str, inner: AbstractAsyncContextManager[None]) -> AbstractAsyncContextManager[None]:
    """Returns `inner`, which waits for an adapter when it is entered; the wait becomes a part of the running request's
    span."""
    current = server_span.get()
    return inner if current is None else _AdapterWait(current, engine_name, inner)


class _AdapterWait(AbstractAsyncContextManager[None]):
    def __init__(self, owner: ServerSpan, engine_name: str, inner: AbstractAsyncContextManager[None]) -> None:
        self._owner, self._engine_name, self._inner = owner, engine_name, inner

    async def __aenter__(self) -> None:
        began = time.time_ns()
        attributes: dict[str, Any] = {"learnware.adapter": self._engine_name}
        try:
            await self._inner.__aenter__()
        except BaseException as error:
            attributes["error.type"] = type(error).__name__
            raise
        finally:
            self._owner.span.child("learnware.adapter", began, time.time_ns(), attributes)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


class _Tokens(Protocol):
    """The tokens of one run of the engine, as `serving.access.account.TokenCount` counts them."""

    prompt: int | None

    @property
    def generated(self) -> int:
        """Tokens of all answers."""
        ...


def engine_run(tokens: _Tokens) -> AbstractContextManager[Any]:
    """Follows one run of the engine, whose outputs (vLLM's `RequestOutput`) the context's value is to be called with;
    its queue, prefill and decode become parts of the running request's span when the context ends."""
    current = server_span.get()
    return _UNSEEN if current is None else _EngineRun(current, tokens)


def _unseen(_: Any) -> None:
    """Takes no note of an output."""


_UNSEEN = nullcontext(_unseen)


class _EngineRun(AbstractContextManager[Any]):
    def __init__(self, owner: ServerSpan, tokens: _Tokens) -> None:
        self._owner, self._tokens = owner, tokens
        self._last: Any = None

    def __enter__(self) -> Any:
        return self._note

    def _note(self, output: Any) -> None:
        self._last = output

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self._owner.span.ended:
            self._owner.span.fail(type(error).__name__)
        sequences = getattr(self._last, "outputs", None)
        ended = [one.finish_reason for one in sequences] if isinstance(sequences, list) else []
        self._owner.took(self._tokens.prompt or 0, self._tokens.generated, [one for one in ended if one])
        metrics = getattr(self._last, "metrics", None)
        if metrics is not None:
            self._record(metrics)

    def _record(self, metrics: Any) -> None:
        """Records the parts from vLLM's own times (`RequestStateStats`), seconds of the machine's monotonic clock; a
        part that did not begin or end has none."""
        now = time.monotonic()
        epoch, latest = time.time() - now, now + _SOON_S
        marks = (metrics.queued_ts, metrics.scheduled_ts, metrics.first_token_ts, metrics.last_token_ts)
        for name, start, end in zip(("queue", "prefill", "decode"), marks, marks[1:], strict=False):
            if 0 < start <= end <= latest:
                began, ended = (int((epoch + mark) * 1e9) for mark in (start, end))
                self._owner.span.child(f"learnware.{name}", began, ended, {})
