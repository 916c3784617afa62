"""The table of what others notice while a stack is attacked, overloaded and broken, and the aims behind it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.tables.cells import (
    HUNDREDTHS,
    NOT_MEASURED,
    PERCENT,
    TENTHS,
    WHOLE,
    Quantity,
    Results,
    Table,
    at_least,
    at_most,
    with_interval,
)

NONE = at_most(0)


class Line(NamedTuple):
    """A line of the table: what is measured, and what others do about it."""

    title: str
    quantity: Quantity
    peers: str = ""


QUEUE = "vLLM: all wait; SGLang: `--max-queued-requests`; TGI: `--max-concurrent-requests`, then 429"
RETRY = "SGLang's gateway and LiteLLM try again, several times"
LIMITS = "LiteLLM: requests and tokens a minute of each key"

SCENARIOS: Mapping[str, Sequence[Line]] = {
    "kills": (
        Line("failures before the first token", Quantity("kills_failed_before_token", WHOLE, NONE), RETRY),
        Line("the same, bodies over the edge's buffer", Quantity("kills_failed_large", WHOLE)),
        Line("answers without a stream that failed", Quantity("kills_failed_unstreamed", WHOLE)),
        Line("broken streams without an error event", Quantity("kills_broken_without_event", WHOLE, NONE)),
        Line("streams that waited at a kill, least", Quantity("kills_least_waiting", WHOLE, at_least(50))),
        Line("replicas that were not replaced", Quantity("kills_not_replaced", WHOLE, NONE)),
        Line("kill to a whole replica, longest, s", Quantity("kills_replaced_max_s", WHOLE)),
        Line(
            "engine stopped, noticed after, s",
            Quantity("kills_hang_noticed_s", TENTHS, at_most(15)),
            "SGLang: a step longer than `--watchdog-timeout` ends the server",
        ),
        Line("stopped engines that nobody noticed", Quantity("kills_hang_unnoticed", WHOLE, NONE)),
        Line("longest silence of a stream then, s", Quantity("kills_longest_hang_s", TENTHS, at_most(20))),
        Line("requests that never ended", Quantity("kills_never_ended", WHOLE, NONE)),
    ),
    "malformed": (
        Line("malformed bodies answered 5xx", Quantity("malformed_5xx", WHOLE, NONE)),
        Line("malformed bodies without an answer", Quantity("malformed_unanswered", WHOLE, NONE)),
        Line("good requests after them that failed", Quantity("malformed_good_failed", WHOLE, NONE)),
    ),
    "cancelled": (
        Line("of cancelled requests, in an engine 1 s later", Quantity("cancelled_left", WHOLE, NONE)),
        Line("tokens made for nobody in 5 s after that", Quantity("cancelled_tokens_for_nobody", WHOLE, NONE)),
    ),
    "door": (
        Line(
            "half-open and slow connections: others' p99 TTFT, ratio",
            Quantity("door_ttft_p99_ratio", HUNDREDTHS, at_most(1.2)),
            "vLLM's security guide: put a reverse proxy in front",
        ),
        Line("others' requests that failed", Quantity("door_others_failed", WHOLE, NONE)),
    ),
    "overload": (
        Line("five times the capacity: goodput", Quantity("overload_goodput_share", PERCENT, at_least(0.9)), QUEUE),
        Line("refusals, p99 by the edge's timers, ms", Quantity("overload_refusal_edge_p99_ms", WHOLE, at_most(50))),
        Line("the same by the client's clock, ms", Quantity("overload_refusal_p99_ms", WHOLE)),
        Line("refusals without Retry-After", Quantity("overload_refused_without_time", WHOLE, NONE)),
        Line("admitted: p99 TTFT over that at capacity", Quantity("overload_ttft_p99_ratio", HUNDREDTHS, at_most(2))),
        Line("answers of the base since no router chose", Quantity("overload_router_fallbacks", WHOLE, NONE)),
        Line("other failures", Quantity("overload_failed", WHOLE, NONE)),
        Line("the load generator's own lag, p99, ms", Quantity("overload_generator_lag_p99_ms", WHOLE)),
    ),
    "tenants": (
        Line(
            "another tenant sends 20 times its share: p99 TTFT, ratio",
            Quantity("tenants_ttft_p99_ratio", HUNDREDTHS, at_most(1.3)),
            LIMITS,
        ),
        Line(
            "the same, and asks for priority",
            Quantity("tenants_ttft_p99_ratio_priority", HUNDREDTHS, at_most(1.3)),
        ),
        Line("requests that failed or never ended", Quantity("tenants_other_failed", WHOLE, NONE)),
    ),
    "soak": (
        Line(
            "memory of the process that grows most, MiB a minute",
            Quantity("soak_rss_mb_per_minute", HUNDREDTHS, at_most(1)),
        ),
        Line("size of `/metrics`, MiB", Quantity("soak_metrics_mb", HUNDREDTHS, at_most(1))),
        Line("changes of the market that failed", Quantity("soak_changes_failed", WHOLE, NONE)),
        Line("requests that failed", Quantity("soak_failed", WHOLE, NONE)),
        Line("streams that SIGTERM cut", Quantity("soak_sigterm_dropped", WHOLE, NONE)),
    ),
    "disk": (
        Line("full, read-only, corrupt: learnwares lost", Quantity("disk_lost", WHOLE, NONE)),
        Line("learnwares served that should not be", Quantity("disk_gained", WHOLE, NONE)),
        Line("submissions answered without an error object", Quantity("disk_wrong_answers", WHOLE, NONE)),
        Line("reads that failed", Quantity("disk_failed_reads", WHOLE, NONE)),
        Line("restarts that failed", Quantity("disk_not_restarted", WHOLE, NONE)),
    ),
}
"""The lines of each scenario, with the aims that a run is held to."""


def chaos(results: Results) -> Table:
    """Shows every line with its figure and aim; while nothing is measured yet, that alone."""
    header = ["", "measured", "aim", "others"]
    lines = [line for scenario in SCENARIOS.values() for line in scenario]
    if not results.has("chaos"):
        rows = [["all of it", NOT_MEASURED, "", ""]]
        return Table(header, rows, "Not measured yet: `python -m benchmarks.chaos`.", is_text=True)
    result = results.of("chaos")
    known = result.details.get("intervals_95", {})
    rows = [
        [
            line.title,
            with_interval(
                result.figures.get(line.quantity.figure), known.get(line.quantity.figure), line.quantity.form
            ),
            result.aims([line.quantity]),
            line.peers,
        ]
        for line in lines
    ]
    return Table(header, rows, result.source, is_text=True)
