"""Spans of one process, by the OpenTelemetry SDK, which is imported when there are any.

They are sent in batches by a thread, over OTLP (http/protobuf). A collector that is down or slow costs a request
nothing: what does not fit the SDK's bounded queue is dropped, and one warning a minute says so. `OTEL_*` variables hold
where the configuration says nothing (headers, certificates, sizes of batches).

The SDK's processor, exporter and resource are used, not its tracer: a span here is a few fields until it ends, and
then one `ReadableSpan`. The tracer's live spans, with a lock and a check for each attribute, cost the event loop that
streams tokens several times as much; and the edge's span has an id that the edge has made.
"""

import atexit
import logging
import random
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.otlp import otlp_url
from serving.tracing.context import Correlation, Edge, TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import SpanContext, TraceState

PREFIX = "learnware-"
"""Beginning of the names of services: `learnware-edge`, `learnware-router`, `learnware-engine`."""
TRACES_PATH = "/v1/traces"
"""Path of a collector for spans, where its URL names none (OTLP/HTTP)."""
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


class Span:
    """A span that is being recorded; it is sent once it has ended."""

    __slots__ = ("_end", "_parent", "_resource", "_tracing", "attributes", "context", "error", "name", "start_ns")

    def __init__(
        self,
        tracing: "Tracing",
        resource: "Resource",
        name: str,
        context: "SpanContext",
        parent: "SpanContext | None",
        start_ns: int,
        attributes: dict[str, Any],
    ) -> None:
        self._tracing, self._resource = tracing, resource
        self._parent = parent
        self._end: int | None = None
        self.name = name
        self.context = context
        self.start_ns = start_ns
        self.attributes = attributes
        """Attributes of strings, numbers, and lists of one kind of these."""
        self.error = False
        """Whether it failed."""

    @property
    def ended(self) -> bool:
        """Whether it has ended; what is noted after that is lost."""
        return self._end is not None

    def fail(self, kind: str) -> None:
        """Marks it as failed, by the kind of the error."""
        self.error = True
        self.attributes["error.type"] = kind

    def child(self, name: str, start_ns: int, end_ns: int, attributes: dict[str, Any]) -> None:
        """Records a part that has ended, between two times in nanoseconds since the epoch."""
        context = self._tracing.context_in(self.context)
        part = Span(self._tracing, self._resource, name, context, self.context, start_ns, attributes)
        self._tracing.finish(part, part._parent, max(end_ns, start_ns), server=False)

    def end(self, end_ns: int | None = None) -> None:
        """Ends it, now or at a time in nanoseconds since the epoch; ending it twice is harmless."""
        if self._end is None:
            self._end = max(time.time_ns() if end_ns is None else end_ns, self.start_ns)
            self._tracing.finish(self, self._parent, self._end, server=True)

    def named(self) -> TraceContext:
        """Returns the context by which others become its children."""
        return TraceContext(f"{self.context.trace_id:032x}", f"{self.context.span_id:016x}", True)

    @property
    def resource(self) -> "Resource":
        """The service that records it."""
        return self._resource


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
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

        _warn_seldom()
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=otlp_url(options.endpoint, TRACES_PATH)))
        self._sample = options.sample
        self._own = _resource(service, instance)
        self._edge = _resource("edge", None)
        self._scope = InstrumentationScope("learnware-serving")
        self._readable, self._context, self._state = ReadableSpan, SpanContext, TraceState
        self._sampled, self._no_state = TraceFlags(TraceFlags.SAMPLED), TraceState()
        self._kinds = {True: SpanKind.SERVER, False: SpanKind.INTERNAL}
        self._statuses = {True: Status(StatusCode.ERROR), False: Status(StatusCode.UNSET)}
        atexit.register(self.end)

    def begin(self, name: str, correlation: Correlation, attributes: dict[str, Any]) -> Span | None:
        """Begins the span of a request that comes to this process, below the span that its headers name; None where
        that one is not sampled, or where none is named and this request is not in the sampled share."""
        named = correlation.context
        if named is None:
            if random.random() >= self._sample:  # noqa: S311 (nothing secret)
                return None
            context = self._context(_some_bits(128), _some_bits(64), False, self._sampled, self._no_state)
            return Span(self, self._own, name, context, None, time.time_ns(), attributes)
        if not named.sampled:
            return None
        state = self._state.from_header([correlation.state]) if correlation.state else self._no_state
        parent = self._remote(named, state)
        return Span(self, self._own, name, self.context_in(parent), parent, time.time_ns(), attributes)

    def record_edge(self, edge: Edge, own: TraceContext, path: str | None, status: int, request_id: str | None) -> None:
        """Records the edge's span `own` of a POST, which ends now. A router does not know the `path`; `status` is 0
        where the client hung up before there was an answer."""
        attributes: dict[str, Any] = {"http.request.method": "POST"}
        name = "POST"
        if path is not None:
            name = f"POST {path}"
            attributes |= {"http.route": path, "url.path": path}
        if request_id is not None:
            attributes["learnware.request_id"] = request_id
        if status:
            attributes["http.response.status_code"] = status
        parent = None if edge.parent is None else self._remote(own._replace(span_id=edge.parent), self._no_state)
        context = self._remote(own, self._no_state)
        span = Span(self, self._edge, name, context, parent, edge.came_ns, attributes)
        if status >= 500:
            span.fail(str(status))
        span.end()

    def context_in(self, parent: "SpanContext") -> "SpanContext":
        """Returns the context of a new span of this process, in a span's trace."""
        return self._context(parent.trace_id, _some_bits(64), False, self._sampled, parent.trace_state)

    def finish(self, span: Span, parent: "SpanContext | None", end_ns: int, *, server: bool) -> None:
        """Hands a span that has ended to the thread that sends."""
        done = self._readable(
            name=span.name,
            context=span.context,
            parent=parent,
            resource=span.resource,
            attributes=span.attributes,
            kind=self._kinds[server],
            status=self._statuses[span.error],
            start_time=span.start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(done)

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

    def _remote(self, named: TraceContext, state: "TraceState") -> "SpanContext":
        return self._context(int(named.trace_id, 16), int(named.span_id, 16), True, self._sampled, state)


def _some_bits(number: int) -> int:
    """Returns an id: random bits that are not all zero (W3C Trace Context, section 3.2.2)."""
    return random.getrandbits(number) or 1


def _resource(service: str, instance: str | None) -> "Resource":
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.util.types import AttributeValue

    class Steady(Resource):
        """A resource that computes its hash once: the exporter asks for it with every span."""

        def __init__(self, attributes: Mapping[str, AttributeValue], schema_url: str) -> None:
            super().__init__(attributes, schema_url)
            self._hash = super().__hash__()

        def __hash__(self) -> int:
            return self._hash

        __eq__ = Resource.__eq__

    named = {"service.name": PREFIX + service} | ({} if instance is None else {"service.instance.id": instance})
    # merged, since OTEL_SERVICE_NAME would otherwise give all services one name
    found = Resource.create({}).merge(Resource(named))
    return Steady(found.attributes, found.schema_url)


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
