"""Spans of one process, by the OpenTelemetry SDK, which is imported when there are any.

They are sent in batches by a thread, over OTLP (http/protobuf). A collector that is down or slow costs a request
nothing: what does not fit the SDK's bounded queue is dropped, and one warning a minute says so. `OTEL_*` variables hold
where the configuration says nothing (headers, certificates, sizes of batches). No provider is made the global one,
which is vLLM's.
"""

import atexit
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from serving.tracing.context import Correlation, Edge, TraceContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span

PREFIX = "learnware-"
"""Beginning of the names of services: `learnware-edge`, `learnware-router`, `learnware-engine`."""
TRACES_PATH = "/v1/traces"
"""Path of a collector for spans, where its URL names none (OTLP/HTTP, section "URL")."""
END_WITHIN_S = 2.0
"""Seconds for which a process that ends waits for its last spans to be sent."""
WARN_EACH_S = 60.0
"""Seconds between two warnings of one kind about the collector."""

_SPEAKERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
"""Loggers that tell of spans which could not be sent."""


class TraceOptions(NamedTuple):
    """Options of the traces in one process."""

    endpoint: str
    """URL of the collector."""
    sample: float
    """Share of the requests without a trace context that are sampled; those that come by the edge have one."""


def traces_url(endpoint: str) -> str:
    """Returns the URL for spans of a collector's URL: itself, with the usual path where it has none."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(path=TRACES_PATH)) if parts.path in {"", "/"} else endpoint


class Tracing:
    """The spans of one process."""

    def __init__(self, service: str, options: TraceOptions, instance: str | None = None) -> None:
        """Begins to send spans.

        Args:
            service: the process's kind, such as `router`.
            options: where to, and how many.
            instance: which of its kind it is.
        """
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased

        _warn_seldom()
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=traces_url(options.endpoint)))
        sampler = ParentBased(TraceIdRatioBased(options.sample))
        own = _provider(service, instance, self._processor, sampler, None)
        self._ids = _given_ids()
        edge = _provider("edge", None, self._processor, ParentBased(ALWAYS_ON), self._ids)
        self.tracer = own.get_tracer("learnware-serving")
        self._edge_tracer = edge.get_tracer("learnware-serving")
        atexit.register(self.end)

    def begin(self, name: str, correlation: Correlation, attributes: dict[str, Any]) -> "Span":
        """Begins the span of a request that comes to this process, below the span that its headers name. It records
        nothing where that one is not sampled."""
        from opentelemetry.trace import SpanKind

        parent = remote(correlation.context, correlation.state)
        return self.tracer.start_span(name, parent, SpanKind.SERVER, attributes)

    def record_edge(
        self, edge: Edge, own: TraceContext, method: str, path: str | None, status: int, request_id: str
    ) -> None:
        """Records the edge's span `own`, which ends now. A router does not know the `path`; `status` is 0
        where the client hung up before there was an answer."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._ids.trace, self._ids.span = int(own.trace_id, 16), int(own.span_id, 16)
        parent = remote(None if edge.parent is None else own._replace(span_id=edge.parent), "")
        attributes: dict[str, Any] = {"http.request.method": method, "learnware.request_id": request_id}
        if status:
            attributes["http.response.status_code"] = status
        name = method
        if path is not None:
            name = f"{method} {path}"
            attributes |= {"http.route": path, "url.path": path}
        span = self._edge_tracer.start_span(name, parent, SpanKind.SERVER, attributes, None, edge.came_ns)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        span.end(max(time.time_ns(), edge.came_ns))

    def flush(self) -> None:
        """Sends what has been recorded; returns when that is done or has failed."""
        self._processor.force_flush()

    def end(self) -> None:
        """Sends the last spans, within `END_WITHIN_S`, and no more after that."""
        atexit.unregister(self.end)
        # The SDK's own wait is half a minute, where the collector is down.
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(END_WITHIN_S)


def remote(context: TraceContext | None, state: str) -> "Context":
    """Returns the SDK's context below a span of another process; a root's where there is none."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

    if context is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    trace_state = TraceState.from_header([state]) if state else TraceState()
    there = SpanContext(int(context.trace_id, 16), int(context.span_id, 16), True, flags, trace_state)
    return set_span_in_context(NonRecordingSpan(there), Context())


def context_of(span: "Span") -> TraceContext:
    """Returns the context by which others become a span's children."""
    own = span.get_span_context()
    return TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", own.trace_flags.sampled)


def _provider(
    service: str, instance: str | None, processor: "SpanProcessor", sampler: Any, ids: Any
) -> "TracerProvider":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    named = {"service.name": PREFIX + service} | ({} if instance is None else {"service.instance.id": instance})
    # not `Resource.create`, by which OTEL_SERVICE_NAME would give all services one name
    resource = Resource.create({}).merge(Resource(named))
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False, id_generator=ids)
    provider.add_span_processor(processor)
    return provider


def _given_ids() -> Any:
    """Returns the SDK's generator of ids, with the next ids given: the edge has made those of its span."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class GivenIds(RandomIdGenerator):
        trace = span = 0

        def generate_span_id(self) -> int:
            return self.span

        def generate_trace_id(self) -> int:
            return self.trace

    return GivenIds()


class _Seldom(logging.Filter):
    """Lets one record of each kind pass in `WARN_EACH_S`, as a warning without a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        now, kind = time.monotonic(), record.msg
        if now - self._passed.get(kind, -WARN_EACH_S) < WARN_EACH_S:
            return False
        self._passed[kind] = now
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.exc_info = record.exc_text = None
        return True


def _warn_seldom() -> None:
    for name in _SPEAKERS:
        speaker = logging.getLogger(name)
        if not any(isinstance(one, _Seldom) for one in speaker.filters):
            speaker.addFilter(_Seldom())
