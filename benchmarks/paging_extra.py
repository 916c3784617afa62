"""What `benchmarks.paging` measures besides throughput and TTFT of its cells: each function one load on one server."""

import asyncio
import itertools
import math
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.load import Measured, Request, closed_loop, open_loop
from benchmarks.paging_sides import BASE, Side

COLD_EVERY_S = 1.0
BUSY_CLIENTS_EACH = 2
VOCABULARY = (1_000, 40_000)
"""Ordinary tokens of the base model, no special ones."""
CLIENTS = 8
PHASES = {"prefill": (64, 1), "decode": (4, 24)}
"""Tokens of prompt and answer: of prefill alone, and of decoding nearly alone."""


def random_tokens(count: int, seed: int) -> tuple[int, ...]:
    """A prompt that no prefix cache knows."""
    return tuple(np.random.default_rng(seed).integers(*VOCABULARY, count).tolist())


def percentile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(np.asarray(values), q)) if values else math.nan


def cold_beside_busy(side: Side, ids: Sequence[str], slots: int, requests_each: int) -> dict[str, float]:
    """S adapters always busy (two clients each), and every second a request to another one."""
    busy = [
        Request(ids[adapter], random_tokens(16, 900_000 + number * 100 + adapter), 12)
        for number in range(requests_each)
        for adapter in range(slots)
    ]

    async def both() -> tuple[Measured, Measured]:
        running_ = asyncio.create_task(closed_loop(side.server.url, busy, slots * BUSY_CLIENTS_EACH))
        await asyncio.sleep(COLD_EVERY_S)
        colds = []
        number = 0
        while not running_.done() and slots + number < len(ids):
            request = Request(ids[slots + number], random_tokens(16, 950_000 + number), 4)
            colds.append(asyncio.create_task(open_loop(side.server.url, [request], [0.0])))
            number += 1
            await asyncio.sleep(COLD_EVERY_S)
        done = await asyncio.gather(*colds)
        return await running_, Measured([one.answers[0] for one in done], 1.0)

    hot, cold = asyncio.run(both())
    everything = [answer.ttft for answer in [*hot.answers, *cold.answers]]
    return {
        "cold_requests": len(cold.answers),
        "cold_ttft_p99": percentile([a.ttft for a in cold.answers], 0.99),
        "cold_ttft_max": max(a.ttft for a in cold.answers),
        "ttft_p99": percentile(everything, 0.99),
        "seconds": hot.seconds,
    }


def token_gaps(side: Side, ids: Sequence[str], slots: int, others: int, cold: bool) -> list[float]:
    """Gaps between the tokens of a running request while others come, one at a time: each to an adapter that holds no
    slot (`cold`), or all to one that does."""

    async def both() -> Measured:
        stamp = time.time_ns() % 1_000_000
        long = Request(ids[0], random_tokens(16, stamp), 128)
        running_ = asyncio.create_task(open_loop(side.server.url, [long], [0.0]))
        await asyncio.sleep(0.3)
        for number in range(others):
            if running_.done():
                break
            # as many adapters as there are slots and one more, in turn: never resident under any order of eviction
            model = ids[1 + number % (2 * slots)] if cold else ids[1]
            request = Request(model, random_tokens(16, stamp + 1 + number), 1)
            await open_loop(side.server.url, [request], [0.0])
        return await running_

    times = asyncio.run(both()).answers[0].times
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def lora_over_base(side: Side, ids: Sequence[str], rounds: int, per_client: int) -> dict[str, dict[str, list[float]]]:
    """Requests a second of `CLIENTS` clients by phase and by who answers, the base model, one adapter or eight, in
    turns on the same server; the first round is for warm-up."""
    adapters = {"base": [BASE], "one": [ids[0]], "eight": list(ids[:CLIENTS])}
    taken: dict[str, dict[str, list[float]]] = {phase: {kind: [] for kind in adapters} for phase in PHASES}
    for number in range(rounds + 1):
        for phase, (prompt, answer) in PHASES.items():
            for kind, models in adapters.items():
                seed = 100 * (10_000 * number + 1_000 * list(adapters).index(kind) + prompt)
                requests = [
                    Request(models[i % len(models)], random_tokens(prompt, seed + i), answer)
                    for i in range(CLIENTS * per_client)
                ]
                measured = asyncio.run(closed_loop(side.server.url, requests, CLIENTS))
                if number:
                    taken[phase][kind].append(len(requests) / measured.seconds)
    return taken
