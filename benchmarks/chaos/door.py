"""Half-open connections, stalled bodies and slow readers from other addresses: what others wait for their first token,
with them and without, in turns."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from benchmarks.chaos.client import End, Lag, Outcome, clients, closed_loop, mixed
from benchmarks.chaos.figures import Findings, p99_ratio, percentile
from benchmarks.chaos.target import SECOND, Target, own_limit

NAME = "door"
HALF_OPEN, SHORT_HALF_OPEN = 4_000, 500
SLOW_READERS, SHORT_SLOW_READERS = 200, 25
ROUNDS, SHORT_ROUNDS = 6, 2
ROUND_REQUESTS, SHORT_ROUND_REQUESTS = 48, 12
CLIENTS = 4
FIRST_SOURCE = 2
PER_SOURCE = 500
"""Connections from one address: what a botnet's members would open, and below the limit for one source."""
STALLED_SHARE = 0.25
"""Share of the half-open connections that send a whole head and then stall in the body."""
AGAIN_S = 1.0
"""Seconds until an attacker whose connection was closed or refused opens another one."""
CONNECT_S = 20.0
DRIP_S = 3.0
"""A byte of a head or a body is sent each so many seconds, so that no connection is idle for long."""
READ_S, READ_BYTES = 1.0, 64
SMALL_WINDOW = 2_048
"""Bytes of a slow reader's receive buffer."""


class Attack(NamedTuple):
    """An attack's connections: how many were opened and refused in all, and still open at its end."""

    opened: int
    refused: int
    held: int


class Round(NamedTuple):
    """Others' requests of one round; `attack` is None for a round without one."""

    outcomes: Sequence[Outcome]
    attack: Attack | None


def evaluate(rounds: Sequence[Round], lag: Sequence[float]) -> Findings:
    with_ = [one for round_ in rounds if round_.attack is not None for one in round_.outcomes]
    without = [one for round_ in rounds if round_.attack is None for one in round_.outcomes]
    attacks = [round_.attack for round_ in rounds if round_.attack is not None]
    waits = [[one.ttft for one in side if one.ttft is not None] for side in (with_, without)]
    ratio, spread = p99_ratio(waits[0], waits[1])
    failed = [one for one in with_ if one.end is not End.DONE]
    figures = {
        "door_ttft_p99_ratio": ratio,
        "door_ttft_p99_ms": 1e3 * percentile(waits[0], 0.99),
        "door_ttft_p99_alone_ms": 1e3 * percentile(waits[1], 0.99),
        "door_others_failed": float(len(failed)),
        "door_opened": float(max((one.opened for one in attacks), default=0)),
        "door_held": float(max((one.held for one in attacks), default=0)),
        "door_generator_lag_p99_ms": 1e3 * percentile(lag, 0.99),
    }
    return Findings(
        figures,
        {"door_ttft_p99_ratio": spread},
        [f"another's request ended so: {end}, {count} times" for end, count in Counter(o.end for o in failed).items()],
        {"attacks": [one._asdict() for one in attacks], "requests": len(with_) + len(without)},
    )


class Attackers:
    """Connections of an attack, from addresses of their own; they hold until `stop`."""

    def __init__(self, target: Target, half_open: int, slow_readers: int) -> None:
        self._target = target
        self._half_open, self._slow_readers = half_open, slow_readers
        self._tasks: list[asyncio.Task[None]] = []
        self.opened = self.refused = self.held = 0

    async def start(self) -> None:
        for number in range(self._half_open):
            self._tasks.append(asyncio.create_task(self._again(self._drip, number)))
            if number % 50 == 49:
                await asyncio.sleep(0.02)  # 2,500 a second at most
        for number in range(self._half_open, self._half_open + self._slow_readers):
            self._tasks.append(asyncio.create_task(self._again(self._read_slowly, number)))
        await asyncio.sleep(0.5)

    async def stop(self) -> Attack:
        found = Attack(self.opened, self.refused, self.held)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return found

    @staticmethod
    async def _again(attack: Callable[[int], Awaitable[None]], number: int) -> None:
        """Attacks until it is cancelled: who is thrown out comes again."""
        while True:
            await attack(number)
            await asyncio.sleep(AGAIN_S)

    async def _connect(self, number: int, window: int | None = None) -> socket.socket | None:
        address = f"127.0.0.{FIRST_SOURCE + number // PER_SOURCE}"
        host, _, port = self._target.url.removeprefix("http://").partition(":")
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.setblocking(False)
        if window is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        try:
            one.bind((address, 0))
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(one, (host, int(port)))
        except OSError:  # a timeout too
            one.close()
            self.refused += 1
            return None
        except asyncio.CancelledError:
            one.close()
            raise
        self.opened += 1
        self.held += 1
        return one

    def _head(self, number: int) -> bytes:
        headers = [f"{name}: {value}" for name, value in self._target.headers(SECOND).items()]
        if number % round(1 / STALLED_SHARE):
            return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", "Host: stack", *headers, "X-Slow: "]).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", "Host: stack", "Content-Type: application/json", *headers]
        return "\r\n".join([*lines, "Content-Length: 1000", "", '{"model": "']).encode()

    async def _drip(self, number: int) -> None:
        """Sends the beginning of a request, then a byte at a time, until the other side closes."""
        one = await self._connect(number)
        if one is None:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(one, self._head(number))
            while True:
                try:
                    # not `asyncio.wait_for`, which in Python 3.11 may swallow that this task is cancelled
                    async with asyncio.timeout(DRIP_S):
                        answer = await loop.sock_recv(one, 4096)
                except TimeoutError:
                    await loop.sock_sendall(one, b"a")
                    continue
                if not answer:
                    return
        except OSError:
            return
        finally:
            self.held -= 1
            one.close()

    async def _read_slowly(self, number: int) -> None:
        """Asks for a page again and again, and takes it a few bytes at a time."""
        one = await self._connect(number, SMALL_WINDOW)
        if one is None:
            return
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._target.headers(SECOND).items())
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(one, f"GET /v1/learnwares HTTP/1.1\r\nHost: stack\r\n{headers}\r\n".encode())
            while True:
                if not await loop.sock_recv(one, READ_BYTES):
                    return
                await asyncio.sleep(READ_S)
        except OSError:
            return
        finally:
            self.held -= 1
            one.close()


async def drive(target: Target, plan: "Plan") -> tuple[list[Round], list[float]]:
    room = own_limit()
    half_open = max(0, min(plan.half_open, room - plan.slow_readers))
    if half_open < plan.half_open:
        print(f"  door: {half_open} half-open connections, since no more sockets may be opened here", flush=True)
    rounds: list[Round] = []
    async with Lag() as lag, clients(target.url, target.headers()) as sessions:
        await closed_loop(
            sessions, iter([mixed(700_000 + number) for number in range(CLIENTS)]), CLIENTS, time.monotonic()
        )
        for number in range(plan.rounds):
            # the side that goes first changes from round to round
            for attacked in (True, False) if number % 2 else (False, True):
                attackers = Attackers(target, half_open, plan.slow_readers) if attacked else None
                if attackers is not None:
                    await attackers.start()
                asks = [mixed(710_000 + 1_000 * number + one, (4, 8)) for one in range(plan.requests)]
                outcomes = await closed_loop(sessions, iter(asks), CLIENTS, time.monotonic() + 300)
                attack = await attackers.stop() if attackers is not None else None
                rounds.append(Round(outcomes, attack))
                print(
                    f"  door: round {number + 1}/{plan.rounds} {'with' if attacked else 'without'}: {attack}",
                    flush=True,
                )
                await asyncio.sleep(1)
        return rounds, lag.late


class Plan(NamedTuple):
    """Sizes of a run."""

    half_open: int = HALF_OPEN
    slow_readers: int = SLOW_READERS
    rounds: int = ROUNDS
    requests: int = ROUND_REQUESTS


SHORT = Plan(SHORT_HALF_OPEN, SHORT_SLOW_READERS, SHORT_ROUNDS, SHORT_ROUND_REQUESTS)


def run(target: Target, *, short: bool, plan: Plan | None = None) -> Findings:
    return evaluate(*asyncio.run(drive(target, plan or (SHORT if short else Plan()))))
