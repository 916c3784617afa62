"""Two tenants, one of whom sends twenty times its share: what the other waits for its first token, beside what it waits
alone; and whether a wish for priority changes anything."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.chaos.client import Ask, Clients, End, Lag, Outcome, clients, endless, mixed
from benchmarks.chaos.figures import Findings, p99_ratio, percentile
from benchmarks.chaos.target import FIRST, SECOND, Target

NAME = "tenants"
OTHERS = 2
"""Clients of the tenant who keeps to its share."""
TIMES = 20
ROUNDS, SHORT_ROUNDS = 5, 1
ROUND_REQUESTS, SHORT_ROUND_REQUESTS = 40, 8
BUILD_UP_S = 3.0
LONGEST_ROUND_S, SHORT_LONGEST_ROUND_S = 240.0, 45.0
ARMS = ("alone", "flood", "flood with priority")
PRIORITY_HEADER = {"X-Vllm-Priority": "-9"}


class Round(NamedTuple):
    """One round of one arm: the other's requests, and the flood's."""

    arm: str
    others: Sequence[Outcome]
    flood: Sequence[Outcome]
    unended: int = 0
    """The other's requests that had no end when the round was over."""


def evaluate(rounds: Sequence[Round], lag: Sequence[float], has_keys: bool) -> Findings:
    waits = {
        arm: [one.ttft for round_ in rounds if round_.arm == arm for one in round_.others if one.ttft is not None]
        for arm in ARMS
    }
    failed = Counter(
        one.end for round_ in rounds if round_.arm != "alone" for one in round_.others if one.end is not End.DONE
    )
    unended = sum(round_.unended for round_ in rounds)
    ratio, spread = p99_ratio(waits["flood"], waits["alone"])
    urgent, urgent_spread = p99_ratio(waits["flood with priority"], waits["alone"])
    moved, moved_spread = p99_ratio(waits["flood with priority"], waits["flood"])
    figures = {
        "tenants_ttft_p99_ratio": ratio,
        "tenants_ttft_p99_ratio_priority": urgent,
        "tenants_priority_over_none": moved,
        "tenants_ttft_p99_alone_ms": 1e3 * percentile(waits["alone"], 0.99),
        "tenants_other_failed": float(sum(failed.values()) + unended),
        "tenants_generator_lag_p99_ms": 1e3 * percentile(lag, 0.99),
    }
    faults = [f"the other's request ended so: {end}, {count} times" for end, count in failed.items()]
    if unended:
        faults.append(f"{unended} of the other's requests had no end when their round was over")
    statuses = {
        arm: dict(Counter(str(one.status) for round_ in rounds if round_.arm == arm for one in round_.flood))
        for arm in ARMS[1:]
    }
    intervals = {
        "tenants_ttft_p99_ratio": spread,
        "tenants_ttft_p99_ratio_priority": urgent_spread,
        "tenants_priority_over_none": moved_spread,
    }
    return Findings(figures, intervals, faults, {"flood_statuses": statuses, "with_keys": has_keys})


def flooding(seed: int, *, urgent: bool) -> Ask:
    """Returns a request of the flood; an urgent one asks for the best priority in every way there is."""
    ask = mixed(seed, (16, 48))
    return ask._replace(body={**ask.body, "priority": -9}, headers=PRIORITY_HEADER) if urgent else ask


async def _flood(sessions: Clients, outcomes: list[Outcome], first_seed: int, *, urgent: bool) -> None:
    """Keeps `TIMES` times the other's requests in flight until it is cancelled."""
    asks = endless(lambda seed: flooding(seed, urgent=urgent), first_seed)

    async def client() -> None:
        for ask in asks:
            outcomes.append(await sessions.send(ask))
            if outcomes[-1].end is not End.DONE:
                await asyncio.sleep(0.1)  # far sooner than Retry-After says

    async with asyncio.TaskGroup() as group:
        for _ in range(TIMES * OTHERS):
            group.create_task(client())


async def drive(target: Target, *, short: bool) -> tuple[list[Round], list[float]]:
    requests = SHORT_ROUND_REQUESTS if short else ROUND_REQUESTS
    longest_s = SHORT_LONGEST_ROUND_S if short else LONGEST_ROUND_S
    rounds = []
    async with (
        Lag() as lag,
        clients(target.url, target.headers(SECOND), timeout_s=longest_s) as others,
        clients(target.url, target.headers(FIRST), sources=1, first_source=2, timeout_s=longest_s) as flooders,
    ):
        for number in range(SHORT_ROUNDS if short else ROUNDS):
            # each arm comes first in its turn
            for place in range(len(ARMS)):
                arm = ARMS[(number + place) % len(ARMS)]
                seed = 2_000_000 + 100_000 * (len(ARMS) * number + place)
                rounds.append(await _round(others, flooders, arm, requests, seed, longest_s))
                waits = [one.ttft for one in rounds[-1].others if one.ttft is not None]
                print(f"  tenants: {arm}: TTFT p99 {percentile(waits, 0.99):.2f} s of {len(waits)}", flush=True)
        return rounds, lag.late


async def _round(others: Clients, flooders: Clients, arm: str, requests: int, seed: int, longest_s: float) -> Round:
    flood: list[Outcome] = []
    task: asyncio.Task[None] | None = None
    if arm != "alone":
        task = asyncio.create_task(_flood(flooders, flood, seed + 50_000, urgent=arm == ARMS[2]))
        await asyncio.sleep(BUILD_UP_S)
    kept: list[Outcome] = []
    asks = iter([mixed(seed + number) for number in range(requests)])
    until = time.monotonic() + longest_s

    async def client() -> None:
        for ask in asks:
            if time.monotonic() > until:
                return
            kept.append(await others.send(ask))

    clients_ = [asyncio.create_task(client()) for _ in range(OTHERS)]
    _, late = await asyncio.wait(clients_, timeout=longest_s)
    for one in late:
        one.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(BUILD_UP_S)  # until nothing of it runs
    return Round(arm, kept, flood, len(late))


def run(target: Target, *, short: bool) -> Findings:
    rounds, lag = asyncio.run(drive(target, short=short))
    return evaluate(rounds, lag, bool(target.keys))
