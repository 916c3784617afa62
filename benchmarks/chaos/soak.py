"""Half an hour of mixed traffic and market changes: does any process grow, does `/metrics`; then SIGTERM under load."""

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psutil

from benchmarks.chaos import market
from benchmarks.chaos.client import End, Outcome, chat, clients, mixed
from benchmarks.chaos.figures import MIB, Findings, slope_per_minute
from benchmarks.chaos.target import Target, title

NAME = "soak"
SOAK_S, SHORT_SOAK_S = 1800.0, 60.0
CLIENTS = 6
SAMPLE_S = 5.0
CHANGE_S = 20.0
WARM_UP_SHARE = 0.3
"""Share of the time that passes before memory counts: caches fill, and each adapter is read once."""
LAST_STREAMS = 8
LAST_TOKENS = 32
SETTLE_S = 60.0
COMMANDS = ("ServeReplica", "EngineCore", "haproxy", "ServeController", "raylet", "gcs_server")
"""Words by which a process's role is named in the result, the first that fits."""


class Grown(NamedTuple):
    """A process's memory over time: seconds, resident bytes."""

    role: str
    at: list[float]
    rss: list[int]


class Soak(NamedTuple):
    """All that was seen: memory by process id, sizes of `/metrics`, requests, market changes, the last streams."""

    seconds: float
    memory: Mapping[int, Grown]
    metrics_bytes: Sequence[int]
    outcomes: Sequence[Outcome]
    changes: Sequence[str]
    """The error of each change, empty for one that was made."""
    last: Sequence[Outcome]
    exit_s: float | None
    """Seconds from SIGTERM until the launcher was gone; None if it never was."""


def evaluate(soak: Soak) -> Findings:
    slopes = {}
    for process, grown in soak.memory.items():
        kept = [(at, rss) for at, rss in zip(grown.at, grown.rss, strict=True) if at >= WARM_UP_SHARE * soak.seconds]
        # one that lived for less than half of that time says nothing about growth
        if kept and kept[-1][0] - kept[0][0] >= 0.5 * (1 - WARM_UP_SHARE) * soak.seconds:
            slopes[process] = slope_per_minute([at for at, _ in kept], [rss / MIB for _, rss in kept])
    dropped = [one for one in soak.last if one.end is not End.DONE]
    failed = Counter(str(one.end) for one in soak.outcomes if one.end not in (End.DONE, End.REFUSED))
    unmade = [one for one in soak.changes if one]
    figures = {
        "soak_minutes": soak.seconds / 60,
        "soak_requests": float(len(soak.outcomes)),
        "soak_failed": float(sum(failed.values())),
        "soak_changes": float(len(soak.changes)),
        "soak_changes_failed": float(len(unmade)),
        "soak_rss_mb_per_minute": max(slopes.values(), default=float("nan")),
        "soak_metrics_mb": max(soak.metrics_bytes, default=0) / MIB,
        "soak_sigterm_dropped": float(len(dropped)),
    }
    if soak.exit_s is not None:
        figures["soak_exit_s"] = soak.exit_s
    growing = sorted(slopes.items(), key=lambda pair: -pair[1])
    return Findings(
        figures,
        {},
        [f"a stream that ran at SIGTERM ended so: {one.end} after {len(one.tokens)} tokens" for one in dropped]
        + [f"a change of the market failed: {one}" for one in unmade[:5]]
        + [f"requests ended so: {end}, {count} times" for end, count in failed.items()],
        {"slopes": [{"process": soak.memory[one].role, "mb_per_minute": slope} for one, slope in growing]},
    )


async def drive(target: Target, length_s: float) -> Soak:
    """Raises `ValueError` where the target's launcher is not known."""
    if target.root is None:
        raise ValueError("the soak needs the process of the stack's launcher (--pid), whose memory it watches")
    memory: dict[int, Grown] = {}
    sizes: list[int] = []
    changes: list[str] = []
    outcomes: list[Outcome] = []
    began = time.monotonic()
    until = began + length_s
    async with clients(target.url, target.headers()) as sessions:

        async def client(number: int) -> None:
            seed = 3_000_000 + 100_000 * number
            while time.monotonic() < until:
                seed += 1
                outcomes.append(await sessions.send(mixed(seed, stream=number % 3 > 0)))
                await asyncio.sleep(0.1)

        async def watch() -> None:
            while time.monotonic() < until:
                _sample(target, memory, time.monotonic() - began)
                with contextlib.suppress(OSError):
                    sizes.append(len(await asyncio.to_thread(target.metrics, 30)))
                await asyncio.sleep(SAMPLE_S)

        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(client(number))
            group.create_task(watch())
            group.create_task(_change(target, changes, until))
        seconds = time.monotonic() - began
        print(f"  soak: {len(outcomes)} requests, {len(changes)} changes; SIGTERM under load", flush=True)
        last, exit_s = await _terminate(target)
    return Soak(seconds, memory, sizes, outcomes, changes, last, exit_s)


def _sample(target: Target, memory: dict[int, Grown], at: float) -> None:
    for process in target.processes():
        with contextlib.suppress(psutil.Error):
            rss = process.memory_info().rss
            grown = memory.setdefault(process.pid, Grown(role_in(title(process)), [], []))
            grown.at.append(at)
            grown.rss.append(rss)


def role_in(line: str) -> str:
    """Returns what a process is, from its command line: by a word of `COMMANDS`, else its arguments without folders,
    which say only where it was run."""
    for word in COMMANDS:
        if word in line:
            return line[line.index(word) :].split(maxsplit=1)[0][:60]
    return " ".join(one.rstrip("/").rsplit("/", 1)[-1] if one.startswith("/") else one for one in line.split())[:60]


async def _change(target: Target, changes: list[str], until: float) -> None:
    """Submits and removes copies of a starter in turns."""
    number = 0
    while time.monotonic() < until:
        name = f"chaos-{number // 2}"
        make = market.submit if number % 2 == 0 else market.remove
        try:
            await asyncio.to_thread(make, target, name)
            changes.append("")
        except OSError as error:
            said = error.read(300).decode(errors="replace") if hasattr(error, "read") else ""
            changes.append(f"{make.__name__} {name}: {error} {said}")
        number += 1
        await asyncio.sleep(min(CHANGE_S, max(0.0, until - time.monotonic())))


async def _terminate(target: Target) -> tuple[list[Outcome], float | None]:
    """Ends the stack while streams run; returns what became of them, and the seconds until it was gone."""
    assert target.root is not None
    async with clients(target.url, target.headers()) as sessions:
        tasks = [
            asyncio.create_task(sessions.send(chat(3_900_000 + number, LAST_TOKENS, words=20)))
            for number in range(LAST_STREAMS)
        ]
        await asyncio.sleep(1.5)
        sent = time.monotonic()
        os.kill(target.root, signal.SIGTERM)
        outcomes = list(await asyncio.gather(*tasks))
    gone: float | None = None
    while time.monotonic() < sent + SETTLE_S + 60:
        if not psutil.pid_exists(target.root) or psutil.Process(target.root).status() == psutil.STATUS_ZOMBIE:
            gone = time.monotonic() - sent
            break
        await asyncio.sleep(0.2)
    return outcomes, gone


def run(target: Target, *, short: bool) -> Findings:
    return evaluate(asyncio.run(drive(target, SHORT_SOAK_S if short else SOAK_S)))
