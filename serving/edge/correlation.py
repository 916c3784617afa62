"""A request's id and trace context, which join its spans and log lines, and the edge's log line in JSON.

Request id: `x-request-id` of a client is kept where it is 1 to 128 characters of `A-Za-z0-9._-`, else replaced by a
UUID; router and replica get it, and every answer that HAProxy sends has it once. (What HAProxy cannot parse as HTTP it
answers before any rule, without one.)

Trace context (W3C): a `traceparent` that is malformed, or there twice, is dropped, and `tracestate` with it. Where
spans are made, each generating request goes on with a `traceparent` whose parent is the edge's own span, new or in the
client's trace; a client's flag says whether it is sampled, else the share of the settings decides. The edge writes no
spans itself: HAProxy 2.8 knows no OTLP, and its log would need a program of its own that reads it. So the header
`EDGE_HEADER` tells whoever answers when the request came and which span of the client's is the edge's parent, and the
edge's span is recorded there when the answer ends (`serving.tracing`).
"""

from serving.edge.settings import EdgeSettings
from serving.edge.template import replace

REQUEST_ID = "x-request-id"
"""Header of a request's id."""
EDGE_HEADER = "x-learnware-edge"
"""Header that tells a router and a replica of the edge's span: microseconds since the epoch at which the request's head
had come, a hyphen, and the 16 hexadecimal digits of the client's span, none where the trace begins here. Clients cannot
send it (`serving.edge.frontend.FOREIGN_HEADERS`)."""
TRACE_HEADERS = ("traceparent", "tracestate", EDGE_HEADER)
"""Headers of a request that a router gets as well, besides its id."""

LONGEST_STATE = 512
"""Characters of a `tracestate` that are passed on at least (W3C Trace Context, section 3.3.1.5); a longer one goes."""

#: One in a million is the least share that is told from none.
_DRAWS = 1_000_000

_ID = "txn.edge_id"
_FITTING = "^[A-Za-z0-9._-]{1,128}$"
_PARENT = "txn.edge_parent"
_TRACE = "txn.edge_trace"
_KNOWN = f"{{ var({_PARENT}) -m found }}"
#: A later version than 00 may have further fields (W3C Trace Context, section 3.2.4).
_CONTEXT = "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$"
_VOID = "^ff-|^00-.{52}.|^..-0{32}-|^..-[0-9a-f]{32}-0{16}-"


def id_rules() -> list[str]:
    """Return the rules by which every request and every answer has an id; they must stand before all that answer."""
    mine = f"{{ var({_ID}) -m found }}"
    named = f"{{ req.fhdr_cnt({REQUEST_ID}) eq 1 }} {{ req.fhdr({REQUEST_ID}) -m reg {_FITTING} }}"
    return [
        f"http-request set-var({_ID}) req.fhdr({REQUEST_ID}) if {named}",
        f"http-request set-var({_ID}) uuid if !{mine}",
        f"http-request set-header {REQUEST_ID} %[var({_ID})]",
        f"http-after-response set-var({_ID}) uuid if !{mine}",
        f"http-after-response set-header {REQUEST_ID} %[var({_ID})]",
    ]


def trace_rules(settings: EdgeSettings) -> list[str]:
    """Return the rules of the trace context; they must stand after those that delete a client's headers."""
    one = "{ req.fhdr_cnt(traceparent) eq 1 }"
    whole = f"{{ req.fhdr(traceparent) -m reg {_CONTEXT} }} !{{ req.fhdr(traceparent) -m reg {_VOID} }}"
    lines = [
        f"http-request set-var({_PARENT}) req.fhdr(traceparent) if {one} {whole}",
        f"http-request set-var({_TRACE}) var({_PARENT}),field(2,-) if {_KNOWN}",
        f"http-request del-header traceparent if !{_KNOWN}",
        f"http-request del-header tracestate if !{_KNOWN}",
        f"http-request del-header tracestate if {{ req.fhdr(tracestate),length gt {LONGEST_STATE} }}",
    ]
    if settings.trace_share is None or not settings.generating_paths:
        return lines
    asks = f"METH_POST {{ var(txn.edge_path) -m str {' '.join(settings.generating_paths)} }}"
    drawn = f"{{ rand({_DRAWS}) lt {round(settings.trace_share * _DRAWS)} }}"
    context = f"00-%[var({_TRACE})]-%[var(txn.edge_span)]-%[var(txn.edge_flags)]"
    return [
        *lines,
        f"http-request set-var({_TRACE}) uuid,regsub(-,,g) if {asks} !{_KNOWN}",
        f"http-request set-var(txn.edge_span) uuid,regsub(-,,g),bytes(16,16) if {asks}",
        f"http-request set-var(txn.edge_flags) var({_PARENT}),field(4,-) if {_KNOWN}",
        f"http-request set-var(txn.edge_flags) str(00) if {asks} !{_KNOWN}",
        f"http-request set-var(txn.edge_flags) str(01) if {asks} !{_KNOWN} {drawn}",
        f"http-request set-header traceparent {context} if {asks}",
        f"http-request set-header {EDGE_HEADER} %[date(0,us)]-%[var({_PARENT}),field(3,-)] if {asks}",
    ]


#: One line a request. Samples that hold what a client wrote are escaped; HAProxy's own fields need none.
_JSON_LINE = (
    '{"time":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]","level":"INFO","logger":"haproxy","process":"edge",'
    '"message":"%HM %[var(txn.edge_path),json(utf8ps)] %ST",'
    f'"request_id":"%[var({_ID})]","trace_id":"%[var({_TRACE})]","tenant":"%[var(txn.edge_tenant)]",'
    '"client":"%ci","method":"%HM","path":"%[var(txn.edge_path),json(utf8ps)]","status":%ST,"milliseconds":%Ta,'
    '"bytes":%B,"backend":"%b","server":"%s","termination":"%ts"}'
)


def edit_log(config: str) -> str:
    """Return the configuration with log lines that are JSON objects. Ray sends them to the syslog server that
    `RAY_SERVE_HAPROXY_LOG_TARGET` names.

    Raises:
        TemplateChanged: the log's format was not found.
    """
    return replace(config, r"(?m)^    option httplog$", lambda _: f"    log-format '{_JSON_LINE}'", "the log's format")
