"""The traces of a router: `learnware.decide`, one span for each choice."""

from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.selection import Choice
from serving.tracing.context import Correlation, correlated
from serving.tracing.logs import begin_json_logs
from serving.tracing.spans import Span, TraceOptions, Tracing

MOST_CANDIDATES = 5
"""Candidates of a choice that its span names, the best first."""
_REFUSED = 429


class _Deciding:
    """A recorded request on its way through the router."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.decided = False
        self.status = 0

    def watching(self, send: Send) -> Send:
        async def watched(message: Message) -> None:
            self.status = message.get("status", self.status)
            await send(message)

        return watched


_deciding: ContextVar[_Deciding | None] = ContextVar("deciding", default=None)


class RouterTracing:
    """The watch over one router's requests (`router.watch.Watch`)."""

    def __init__(self, options: TraceOptions | None) -> None:
        """Begins to send spans, where there are options for them, and writes log lines as JSON where that is wanted."""
        begin_json_logs()
        self._tracing = None if options is None else Tracing("router", options)

    def around(self, app: ASGIApp) -> ASGIApp:
        """Returns the router's application with the watch around it."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            with correlated(scope) as found:
                if self._tracing is None:
                    await app(scope, receive, send)
                else:
                    await _trace(self._tracing, found, app, scope, receive, send)

        return watched

    def decided(self, choice: Choice, waited_s: float) -> None:
        """Tells the running request's span of its choice, and of the seconds that it waited before that began."""
        current = _deciding.get()
        if current is None:
            return
        current.decided = True
        best = choice.candidates[:MOST_CANDIDATES]
        current.span.attributes.update(
            {
                "learnware.learnware": choice.learnware_id or "",
                "learnware.reason": choice.reason,
                "learnware.score": float(choice.score),
                "learnware.confidence": float(choice.confidence),
                "learnware.base": float(choice.base),
                "learnware.bound": float(choice.bound),
                "learnware.waited_ms": waited_s * 1000,
                "learnware.candidates": [one.learnware_id for one in best],
                "learnware.candidates.expected": [float(one.expected) for one in best],
                "learnware.candidates.score": [float(one.score) for one in best],
            }
        )


async def _trace(
    tracing: Tracing, found: Correlation, app: ASGIApp, scope: Scope, receive: Receive, send: Send
) -> None:
    named = {} if found.request_id is None else {"learnware.request_id": found.request_id}
    span = tracing.begin("learnware.decide", found, named)
    if span is None:
        await app(scope, receive, send)
        return
    current = _Deciding(span)
    before = _deciding.set(current)
    try:
        await app(scope, receive, current.watching(send))
    finally:
        _deciding.reset(before)
        if current.status == _REFUSED:
            _refused(tracing, span, found)
        elif current.decided:
            span.end()
        # else it asked for no choice: a span that does not end is never sent


def _refused(tracing: Tracing, span: Span, found: Correlation) -> None:
    """Ends the span of a refusal. No replica sees it, so that the edge's span is recorded here as well."""
    span.fail(str(_REFUSED))
    span.end()
    if found.edge is not None and found.context is not None:
        tracing.record_edge(found.edge, found.context, None, _REFUSED, found.request_id)
