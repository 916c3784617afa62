"""The ids of the running request and its trace context (W3C Trace Context), from its headers.

The edge has checked and completed them (`serving.edge.correlation`); a replica's port can also be reached without it,
so what is malformed counts here as not there.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

REQUEST_ID = b"x-request-id"
TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
EDGE_HEADER = b"x-learnware-edge"
"""Header by which the edge tells of its span (`serving.edge.correlation.EDGE_HEADER`)."""

_FITTING_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_CONTEXT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_EDGE = re.compile(r"([0-9]{1,17})-([0-9a-f]{16})?")
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span as a header names it."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool

    def header(self) -> str:
        """Returns the value of `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


class Edge(NamedTuple):
    """The edge's span, which is not recorded yet."""

    came_ns: int
    """Time at which the request's head had come, nanoseconds since the epoch."""
    parent: str | None
    """The client's span, 16 hexadecimal digits; None where the trace begins at the edge."""


class Correlation(NamedTuple):
    """The ids that join a request's log lines and spans."""

    request_id: str | None = None
    context: TraceContext | None = None
    state: str = ""
    """Value of `tracestate`."""
    edge: Edge | None = None

    @property
    def trace_id(self) -> str | None:
        """The trace's id, 32 hexadecimal digits, None without a trace."""
        return None if self.context is None else self.context.trace_id


correlation: ContextVar[Correlation | None] = ContextVar("correlation", default=None)
"""The running request's; tasks that it starts inherit it. None outside of one, and where neither spans nor log lines
need it."""


def parse_context(value: str) -> TraceContext | None:
    """Returns the span that a `traceparent` names; None where it is malformed. Version 00 has four fields, a later one
    may have more."""
    found = _CONTEXT.fullmatch(value)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return TraceContext(found[2], found[3], bool(int(found[4], 16) & _SAMPLED))


def correlation_of(headers: Iterable[tuple[bytes, bytes]]) -> Correlation:
    """Returns what the headers of an ASGI scope say; where one is there twice, as if it were not."""
    values: dict[bytes, str | None] = {}
    for name, value in headers:
        if name in _NAMES:
            values[name] = None if name in values else value.decode("latin-1")
    given = values.get(REQUEST_ID) or ""
    context = parse_context(values.get(TRACEPARENT) or "")
    if context is None:
        return Correlation(given if _FITTING_ID.fullmatch(given) else None)
    edge = _EDGE.fullmatch(values.get(EDGE_HEADER) or "")
    return Correlation(
        given if _FITTING_ID.fullmatch(given) else None,
        context,
        values.get(TRACESTATE) or "",
        None if edge is None else Edge(int(edge[1]) * 1000, edge[2]),
    )


_NAMES = frozenset({REQUEST_ID, TRACEPARENT, TRACESTATE, EDGE_HEADER})


@contextmanager
def correlated(scope: Mapping[str, Any]) -> Iterator[Correlation]:
    """Makes an ASGI scope's ids those of the running task while the context lasts."""
    found = correlation_of(scope["headers"])
    before = correlation.set(found)
    try:
        yield found
    finally:
        correlation.reset(before)
