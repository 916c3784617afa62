"""Five times as much load as the stack can take: how much of its capacity it keeps, and how soon the others hear no.

Capacity is the best rate of a closed loop of the same mix in the same run. Then requests arrive at five times that
rate, whatever becomes of earlier ones.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.chaos.client import End, Lag, Outcome, clients, closed_loop, endless, mixed
from benchmarks.chaos.figures import Findings, percentile
from benchmarks.chaos.target import EdgeLog, Logged, Target, metric
from benchmarks.common.arrivals import gamma_arrivals

NAME = "overload"
TIMES = 5.0
CONCURRENCIES, SHORT_CONCURRENCIES = (8, 16, 32, 64), (8, 24)
CAPACITY_S, SHORT_CAPACITY_S = 60.0, 12.0
OVERLOAD_S, SHORT_OVERLOAD_S = 300.0, 20.0
MOST_REQUESTS = 60_000
"""Requests of the overload at most, whatever the capacity is."""
DRAIN_S = 60.0
RAMP_SHARE, LONGEST_RAMP_S = 0.25, 30.0
"""Share of the overload, and seconds at most, until what is answered counts: the first answers take their time."""
SOURCES = 16
REFUSED_STATUSES = (429, 503)
ROUTER_REASONS = ("base:router-deadline", "base:router-overload", "base:router-error")


class Closed(NamedTuple):
    """A closed loop: clients, seconds, outcomes."""

    clients: int
    seconds: float
    outcomes: Sequence[Outcome]

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return sum(one.end is End.DONE for one in self.outcomes) / self.seconds


class Open(NamedTuple):
    """An open loop: its rate and its first and last moment (`time.monotonic`), outcomes, and HAProxy's log of it."""

    rate: float
    began: float
    ended: float
    outcomes: Sequence[Outcome]
    logged: Sequence[Logged]
    router_reasons: float
    """The number of times that the base model answered since no router did, by the stack's own count."""
    lag: Sequence[float]


def evaluate(closed: Sequence[Closed], overload: Open) -> Findings:
    best = max(closed, key=lambda one: one.rate)
    counted_from = overload.began + min(LONGEST_RAMP_S, RAMP_SHARE * (overload.ended - overload.began))
    good = [one for one in overload.outcomes if one.end is End.DONE and counted_from < one.ended <= overload.ended]
    refused = [one for one in overload.outcomes if one.status in REFUSED_STATUSES and not one.tokens]
    told = [one for one in refused if one.end is End.REFUSED]
    goodput = len(good) / (overload.ended - counted_from)
    at_capacity = [one.ttft for one in best.outcomes if one.ttft is not None]
    admitted = [one.ttft for one in overload.outcomes if one.ttft is not None]
    edge = [one.total_ms for one in overload.logged if one.status in REFUSED_STATUSES]
    others = [one for one in overload.outcomes if one.end not in (End.DONE, End.REFUSED)]
    figures = {
        "overload_capacity": best.rate,
        "overload_offered": len(overload.outcomes) / (overload.ended - overload.began),
        "overload_goodput": goodput,
        "overload_goodput_share": goodput / best.rate if best.rate else float("nan"),
        "overload_refused_share": len(refused) / max(len(overload.outcomes), 1),
        "overload_refused_without_time": float(len(refused) - len(told)),
        "overload_ttft_p99_ms": 1e3 * percentile(admitted, 0.99),
        "overload_ttft_p99_at_capacity_ms": 1e3 * percentile(at_capacity, 0.99),
        "overload_ttft_p99_ratio": percentile(admitted, 0.99) / percentile(at_capacity, 0.99),
        "overload_failed": float(len(others)),
        "overload_router_fallbacks": overload.router_reasons
        + sum(one.reason.startswith("base:router-") for one in overload.outcomes),
        "overload_generator_lag_p99_ms": 1e3 * percentile(overload.lag, 0.99),
    }
    if refused:
        figures["overload_refusal_p99_ms"] = 1e3 * percentile([one.seconds for one in refused], 0.99)
    if edge:
        figures["overload_refusal_edge_p99_ms"] = percentile(edge, 0.99)
    faults = [f"{count} requests ended so: {end}" for end, count in Counter(one.end for one in others).most_common()]
    if not refused:
        faults.append(f"nothing was refused at {TIMES:.0f} times the capacity")
    return Findings(
        figures,
        {},
        faults,
        {
            "closed": [{"clients": one.clients, "rate": one.rate, "requests": len(one.outcomes)} for one in closed],
            "ends": dict(Counter(f"{one.end}, {one.status}" for one in overload.outcomes)),
            "reasons": dict(Counter(one.reason for one in overload.outcomes if one.reason)),
            "logged_refusals": len(edge),
        },
    )


async def drive(target: Target, *, short: bool) -> tuple[list[Closed], Open]:
    closed = []
    for number, count in enumerate(SHORT_CONCURRENCIES if short else CONCURRENCIES):
        async with clients(target.url, target.headers(), sources=SOURCES) as sessions:
            started = time.monotonic()
            until = started + (SHORT_CAPACITY_S if short else CAPACITY_S)
            outcomes = await closed_loop(sessions, endless(mixed, 100_000 * (number + 1)), count, until, patience_s=0.2)
            closed.append(Closed(count, time.monotonic() - started, outcomes))
            print(f"  overload: {count} clients, {closed[-1].rate:.2f} requests/s", flush=True)
    rate = TIMES * max(one.rate for one in closed)
    if rate <= 0:
        raise ValueError("no request was answered, so there is no capacity to go beyond")
    length = SHORT_OVERLOAD_S if short else OVERLOAD_S
    return closed, await _overload(target, rate, length)


async def _overload(target: Target, rate: float, length_s: float) -> Open:
    count = min(MOST_REQUESTS, max(1, int(rate * length_s)))
    at = gamma_arrivals(count, rate, 1.0, seed=15)
    before = _fallbacks(await asyncio.to_thread(target.metrics, 60))
    async with Lag() as lag, EdgeLog(target) as log, clients(target.url, target.headers(), sources=SOURCES) as sessions:
        began = time.monotonic()
        tasks = []
        for number in range(count):
            await asyncio.sleep(max(0.0, began + at[number] - time.monotonic()))
            tasks.append(asyncio.create_task(sessions.send(mixed(1_000_000 + number))))
        ended = time.monotonic()
        print(
            f"  overload: {count} requests sent in {ended - began:.0f} s, at {count / (ended - began):.1f}/s",
            flush=True,
        )
        _, late = await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in late:
            task.cancel()
        outcomes = [
            one if isinstance(one, Outcome) else Outcome(began, time.monotonic(), End.TIMEOUT, None)
            for one in await asyncio.gather(*tasks, return_exceptions=True)
        ]
        late_ticks = list(lag.late)
    after = _fallbacks(await asyncio.to_thread(target.metrics, 60))
    return Open(rate, began, ended, outcomes, log.requests, after - before, late_ticks)


def _fallbacks(text: str) -> float:
    return sum(metric(text, "learnware_fallbacks_total", reason=reason) for reason in ROUTER_REASONS)


def run(target: Target, *, short: bool) -> Findings:
    return evaluate(*asyncio.run(drive(target, short=short)))
