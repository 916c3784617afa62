"""Many requests whose clients hang up at random points: a second after the last one nothing may run for them."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.chaos.client import Clients, Flight, chat, clients
from benchmarks.chaos.figures import Findings
from benchmarks.chaos.target import Target, metric

NAME = "cancelled"
COUNT, SHORT_COUNT = 1_000, 100
AT_ONCE = 32
TOKENS = 200
"""Tokens that each request asks for: some seconds to a minute, so that one left running is seen."""
GRACE_S = 1.0
WATCHED_S = 5.0
"""Seconds after the grace in which tokens are counted that nobody reads."""
IDLE_WAIT_S = 180.0
STAGES = ("before headers", "waiting", "mid-stream", "not streamed")
LONGEST_S = {"before headers": 0.05, "waiting": 0.6, "not streamed": 1.5}
"""The longest time until the client hangs up, which is drawn uniformly; mid-stream it is after a token."""


class Watched(NamedTuple):
    """The metrics after the last hang-up: requests in the engines, running and waiting, a second after it and after a
    few requests that make every engine report anew; and the tokens generated in the seconds after."""

    at_once: float
    reported: float
    tokens_for_nobody: float
    seconds_to_idle: float | None
    """None: never within `IDLE_WAIT_S`."""


def evaluate(stages: Sequence[str], watched: Watched) -> Findings:
    """Tells what was left. An engine that has nothing to do reports nothing, so its last report may be from before the
    hang-ups: what counts is the smaller of both looks."""
    left = min(watched.at_once, watched.reported)
    faults = []
    if left:
        faults.append(f"{left:.0f} requests were still in the engines {GRACE_S:.0f} s after the last client hung up")
    if watched.tokens_for_nobody:
        faults.append(f"{watched.tokens_for_nobody:.0f} tokens were generated for nobody in {WATCHED_S:.0f} s")
    if watched.seconds_to_idle is None:
        faults.append(f"the engines were not idle {IDLE_WAIT_S:.0f} s after the last client hung up")
    figures = {
        "cancelled_requests": float(len(stages)),
        "cancelled_left": left,
        "cancelled_tokens_for_nobody": watched.tokens_for_nobody,
    }
    if watched.seconds_to_idle is not None:
        figures["cancelled_seconds_to_idle"] = watched.seconds_to_idle
    return Findings(figures, {}, faults, {"stages": dict(Counter(stages)), "watched": watched._asdict()})


async def drive(target: Target, count: int) -> tuple[list[str], Watched]:
    stages: list[str] = []
    numbers = iter(range(count))
    async with clients(target.url, target.headers(), sources=2) as sessions:

        async def client() -> None:
            for number in numbers:
                stages.append(await _hang_up(sessions, number))
                if number % 100 == 99:
                    print(f"  cancelled: {number + 1} of {count}", flush=True)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, count)):
                group.create_task(client())
    ended = time.monotonic()
    await asyncio.sleep(GRACE_S)
    at_once = _held(await asyncio.to_thread(target.metrics))
    reported, refreshed = at_once, 0.0
    if at_once:
        refreshed = await _refresh(target)
        reported = _held(await asyncio.to_thread(target.metrics))
    before = _generated(await asyncio.to_thread(target.metrics))
    await asyncio.sleep(WATCHED_S)
    after = _generated(await asyncio.to_thread(target.metrics))
    idle: float | None = None
    while time.monotonic() < ended + IDLE_WAIT_S:
        if reported == 0 and after == before:
            idle = time.monotonic() - ended - WATCHED_S - refreshed
            break
        await asyncio.sleep(1)
        await _refresh(target)
        text = await asyncio.to_thread(target.metrics)
        if _held(text) == 0:
            idle = time.monotonic() - ended
            break
    return stages, Watched(at_once, reported, after - before, idle)


async def _hang_up(sessions: Clients, number: int) -> str:
    """Sends a request, hangs up at its point, and returns the stage that it had reached."""
    draw = random.Random(number)
    wanted = STAGES[number % len(STAGES)]
    flight = Flight(chat(900_000 + number, TOKENS, stream=wanted != "not streamed"))
    task = asyncio.create_task(sessions.fly(flight))
    if wanted == "mid-stream":
        began = asyncio.create_task(flight.began.wait())
        await asyncio.wait([began, task], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        began.cancel()
        await asyncio.sleep(draw.uniform(0, 0.3))
    else:
        await asyncio.sleep(draw.uniform(0, LONGEST_S[wanted]))
    if task.done():
        return f"ended before: {task.result().end}"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return "mid-stream" if flight.tokens else "not streamed" if wanted == "not streamed" else "before a token"


async def _refresh(target: Target) -> float:
    """Lets every replica's engine report anew, by a few short requests at once; returns the seconds they took."""
    started = time.monotonic()
    async with clients(target.url, target.headers()) as sessions:
        await asyncio.gather(*(sessions.send(chat(990_000 + number, 1)) for number in range(4 * target.replicas)))
    return time.monotonic() - started


def _held(text: str) -> float:
    return metric(text, "vllm:num_requests_running") + metric(text, "vllm:num_requests_waiting")


def _generated(text: str) -> float:
    return metric(text, "vllm:generation_tokens_total")


def run(target: Target, *, short: bool, count: int | None = None) -> Findings:
    return evaluate(*asyncio.run(drive(target, count or (SHORT_COUNT if short else COUNT))))
