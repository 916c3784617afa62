"""Processes of a replica are killed or stopped again and again under load: what breaks off, how it ends, and how long
until there is a whole replica in its place.

Eight clients ask the mix in a closed loop, one of them with bodies larger than the edge's buffer, two without streams;
further ones keep a line of streams waiting. Three kinds of kills come in turns. A request is tried again once and not
twice, so a kill comes when all that were there at the one before have had their first token.
"""

import asyncio
import contextlib
import itertools
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from benchmarks.chaos.client import Ask, Clients, End, Flight, Lag, Outcome, clients, mixed
from benchmarks.chaos.figures import Findings, percentile
from benchmarks.chaos.target import Role, Target, wait_until_whole

NAME = "kills"
KILLS, SHORT_KILLS = 20, 3
MIXED_CLIENTS = 8
LINE = 72
"""Clients whose streams make the line: with sixteen seats in two replicas more than fifty of them wait."""
UNSTREAMED = (0, 1)
LARGE = 2
"""Numbers of the clients without streams, and of the one with large bodies."""
PADDING = 1_200_000
"""Spaces after a large body: more than the edge's buffer (`serving.launch.environment.FORWARDED_BODY_BYTES`)."""
TOKENS = (16, 48)
BEFORE_S, AFTER_S = 8.0, 5.0
"""Seconds of load before the first kill, and after a replacement."""
MOVED_WAIT_S = 120.0
"""Most seconds that the next kill waits for the requests of the one before."""
REPLACED_WAIT_S, SHORT_REPLACED_WAIT_S = 240.0, 150.0
REQUEST_TIMEOUT_S, SHORT_REQUEST_TIMEOUT_S = 300.0, 150.0
LOOK_S = 0.25
KINDS = ("front end killed", "engine killed", "engine stopped")


class Kill(NamedTuple):
    """A kill, in seconds of `time.monotonic`; None: not within the time that was waited."""

    kind: str
    at: float
    noticed: float | None
    """The time at which a replica was gone from the edge, or the process that was stopped had been ended."""
    replaced: float | None
    waiting: int
    """Streams that had no token yet."""


def evaluate(kills: Sequence[Kill], outcomes: Sequence[Outcome], lag: Sequence[float]) -> Findings:
    failed = [one for one in outcomes if one.end not in (End.DONE, End.CANCELLED)]
    before = [one for one in failed if one.streamed and not one.tokens and not one.large]
    unstreamed = [one for one in failed if not one.streamed and not one.large]
    broken = [one for one in failed if one.streamed and one.tokens and not one.large]
    mute = [one for one in broken if one.end is not End.ERROR_EVENT]
    stops = [one for one in kills if one.kind == "engine stopped"]
    noticed = [one.noticed - one.at for one in stops if one.noticed is not None]
    replaced = [one.replaced - one.at for one in kills if one.replaced is not None]
    silences = [
        one.longest_silence for one in outcomes if one.tokens and any(one.sent < stop.at < one.ended for stop in stops)
    ]
    figures = {
        "kills": float(len(kills)),
        "kills_least_waiting": float(min((one.waiting for one in kills), default=0)),
        "kills_failed_before_token": float(len(before)),
        "kills_failed_large": float(sum(one.large for one in failed)),
        "kills_failed_unstreamed": float(len(unstreamed)),
        "kills_broken_streams": float(len(broken)),
        "kills_broken_without_event": float(len(mute)),
        "kills_never_ended": float(sum(one.end is End.TIMEOUT for one in failed)),
        "kills_not_replaced": float(len(kills) - len(replaced)),
        "kills_hang_unnoticed": float(len(stops) - len(noticed)),
        "kills_requests": float(len(outcomes)),
        "kills_generator_lag_p99_ms": 1e3 * percentile(lag, 0.99),
    }
    if replaced:
        figures |= {"kills_replaced_p50_s": percentile(replaced, 0.5), "kills_replaced_max_s": max(replaced)}
    if noticed:
        figures["kills_hang_noticed_s"] = max(noticed)
    if silences:
        figures["kills_longest_hang_s"] = max(silences)
    faults = [f"{told}, before the first token, {count} times" for told, count in _kinds(before)]
    faults += [f"{told}, after its first token, {count} times" for told, count in _kinds(mute)]
    faults += [f"{one.kind}: no whole replica came in its place" for one in kills if one.replaced is None]
    ends = Counter(f"{one.end}, {one.status}" for one in failed)
    return Findings(figures, {}, faults, {"kills": [_relative(one) for one in kills], "ends": dict(ends)})


def _kinds(outcomes: Sequence[Outcome]) -> list[tuple[str, int]]:
    """Returns the ends that requests had, the most frequent first, with their numbers."""
    return Counter(f"{one.end} (status {one.status}, {one.detail[:160]!r})" for one in outcomes).most_common(10)


def _relative(one: Kill) -> dict[str, object]:
    return {
        "kind": one.kind,
        "noticed_s": None if one.noticed is None else one.noticed - one.at,
        "replaced_s": None if one.replaced is None else one.replaced - one.at,
        "waiting": one.waiting,
    }


class Load:
    """The clients' load while it runs: what is in flight, and what has ended."""

    def __init__(self, sessions: Clients) -> None:
        self._sessions = sessions
        self._seeds = itertools.count(500_000)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.flights: set[Flight] = set()
        self.outcomes: list[Outcome] = []

    def start(self) -> None:
        for number in range(MIXED_CLIENTS + LINE):
            self._tasks.append(asyncio.create_task(self._client(number)))

    async def _client(self, number: int) -> None:
        while not self._is_over:
            flight = Flight(_ask(number, next(self._seeds)))
            self.flights.add(flight)
            outcome = await self._sessions.fly(flight)
            self.flights.discard(flight)
            flight.began.set()  # nobody need wait for it any more
            self.outcomes.append(outcome)
            if outcome.end is not End.DONE:
                await asyncio.sleep(0.5)  # a client that comes again at once would only make failures many

    async def wait_for_first_tokens(self, longest_s: float) -> None:
        """Returns when everything that is in flight now has had its first token or has ended, or after `longest_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                for one in tuple(self.flights):
                    await one.began.wait()

    @property
    def waiting(self) -> int:
        return sum(not one.tokens and bool(one.ask.body["stream"]) for one in self.flights)

    async def stop(self) -> None:
        """Lets what is in flight end."""
        self._is_over = True
        await asyncio.gather(*self._tasks)


def _ask(client: int, seed: int) -> Ask:
    ask = mixed(seed, TOKENS, stream=client not in UNSTREAMED)
    return ask._replace(padding=PADDING) if client == LARGE else ask


async def drive(target: Target, count: int, *, short: bool) -> tuple[list[Kill], list[Outcome], list[float]]:
    """Raises `ValueError` where the target's processes are not known or it has fewer than two replicas."""
    if target.root is None or target.replicas < 2:
        raise ValueError("kills need a stack of two replicas whose launcher's process is known (--pid)")
    wait_s = SHORT_REPLACED_WAIT_S if short else REPLACED_WAIT_S
    timeout_s = SHORT_REQUEST_TIMEOUT_S if short else REQUEST_TIMEOUT_S
    kills: list[Kill] = []
    async with Lag() as lag, clients(target.url, target.headers(), sources=2, timeout_s=timeout_s) as sessions:
        load = Load(sessions)
        load.start()
        await asyncio.sleep(BEFORE_S)
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            victim = await asyncio.to_thread(_victim, target, kind, number // len(KINDS))
            if victim is None:
                print(f"  kills: no process for {kind}", flush=True)
                kills.append(Kill(kind, time.monotonic(), None, None, load.waiting))
                continue
            kills.append(await _kill(target, kind, victim, load, wait_s))
            print(f"  kills: {number + 1}/{count} {_relative(kills[-1])}", flush=True)
            await load.wait_for_first_tokens(MOVED_WAIT_S)
            await asyncio.sleep(AFTER_S)
        await load.stop()
        return kills, load.outcomes, lag.late


def _victim(target: Target, kind: str, number: int) -> psutil.Process | None:
    found = target.of_role(Role.REPLICA if kind == "front end killed" else Role.CORE)
    return found[number % len(found)] if found else None


async def _kill(target: Target, kind: str, victim: psutil.Process, load: Load, wait_s: float) -> Kill:
    before = await asyncio.to_thread(target.replicas_up) or set()
    waiting, at = load.waiting, time.monotonic()
    victim.send_signal(signal.SIGSTOP if kind == "engine stopped" else signal.SIGKILL)
    noticed: float | None = None
    try:
        while time.monotonic() < at + wait_s:
            await asyncio.sleep(LOOK_S)
            up = await asyncio.to_thread(target.replicas_up)
            if noticed is None and (not _lives(victim) or (up is not None and before - up)):
                noticed = time.monotonic()
            if up is not None and before - up and len(up) >= target.replicas:
                left = at + wait_s - time.monotonic()
                whole = await asyncio.to_thread(wait_until_whole, target, left)
                return Kill(kind, at, noticed, None if whole is None else time.monotonic(), waiting)
        return Kill(kind, at, noticed, None, waiting)
    finally:
        if kind == "engine stopped":  # one that nobody has ended goes on, so that the next kill finds a whole stack
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(signal.SIGCONT)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run(target: Target, *, short: bool, count: int | None = None) -> Findings:
    kills, outcomes, lag = asyncio.run(drive(target, count or (SHORT_KILLS if short else KILLS), short=short))
    return evaluate(kills, outcomes, lag)
