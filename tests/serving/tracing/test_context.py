"""Ids and trace context, as they are read from headers."""

import asyncio

import pytest

from serving.edge.correlation import EDGE_HEADER as EDGES_OWN
from serving.tracing.context import (
    EDGE_HEADER,
    Correlation,
    Edge,
    TraceContext,
    correlated,
    correlation,
    correlation_of,
    parse_context,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"fe-{TRACE}-{SPAN}-01-what.comes", True),
    ],
)
def test_a_context_is_read(value: str, sampled: bool) -> None:
    assert parse_context(value) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-x",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"01-{TRACE}-{SPAN}-01x",
    ],
)
def test_a_malformed_context_is_none(value: str) -> None:
    assert parse_context(value) is None


def test_a_context_is_written_as_it_is_read() -> None:
    for sampled in (True, False):
        context = TraceContext(TRACE, SPAN, sampled)
        assert parse_context(context.header()) == context


def headers(**values: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in values.items()]


def test_the_headers_of_a_request_are_read() -> None:
    assert EDGES_OWN.encode() == EDGE_HEADER
    context = f"00-{TRACE}-{SPAN}-01"
    edge = f"1764320000123456-{SPAN}"
    given = headers(host="x", x_request_id="mine", traceparent=context, tracestate="a=1", x_learnware_edge=edge)
    own = TraceContext(TRACE, SPAN, True)
    assert correlation_of(given) == Correlation("mine", own, "a=1", Edge(1764320000123456000, SPAN))
    begun = headers(traceparent=context, x_learnware_edge="1764320000123456-")
    assert correlation_of(begun) == Correlation(None, own, "", Edge(1764320000123456000, None))
    assert correlation_of(given).trace_id == TRACE
    assert correlation_of([]).trace_id is None


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a/b", "a\n"])
def test_an_id_that_does_not_fit_is_none(given: str) -> None:
    assert correlation_of(headers(x_request_id=given)).request_id is None


def test_what_is_there_twice_or_belongs_to_nothing_is_not_there() -> None:
    context = f"00-{TRACE}-{SPAN}-01"
    assert correlation_of([*headers(traceparent=context), *headers(traceparent=context)]).context is None
    assert correlation_of([*headers(x_request_id="a"), *headers(x_request_id="b")]).request_id is None
    lonely = correlation_of(headers(traceparent="nonsense", tracestate="a=1", x_learnware_edge=f"1-{SPAN}"))
    assert lonely == Correlation()
    for edge in ("", "x", "1", f"1-{SPAN}0", f"-{SPAN}", "9" * 18 + "-"):
        assert correlation_of(headers(traceparent=context, x_learnware_edge=edge)).edge is None


async def test_the_ids_are_the_running_requests_and_of_the_tasks_that_it_starts() -> None:
    async def seen() -> str | None:
        current = correlation.get()
        return current.request_id if current else None

    with correlated({"headers": headers(x_request_id="one")}):
        assert await asyncio.create_task(seen()) == "one"
        with correlated({"headers": headers(x_request_id="two")}):
            assert await seen() == "two"
        assert await seen() == "one"
    assert correlation.get() is None
