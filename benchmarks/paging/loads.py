"""The loads of `benchmarks.paging` besides throughput and TTFT of its cells: each function sends one load to one
server."""

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.common.load import MeasuredLoad, Request, closed_loop, open_loop
from benchmarks.common.prompts import KINDS, text_of
from benchmarks.common.servers import BASE_MODEL_ID
from benchmarks.common.tasks import data_folder, read_prompts, task_of
from benchmarks.paging.sides import Side

COLD_EVERY_S = 1.0
BUSY_CLIENTS_EACH = 2
VOCABULARY = (1_000, 40_000)
"""Range of the base model's ordinary tokens, without special ones."""
CLIENTS = 8
PHASES = {"prefill": 1, "decode": 24}
"""Number of tokens of each answer, by phase."""
PROMPT_WORDS, PROMPT_CHARACTERS = 60, 600
"""Words of a made prompt's content, and the most characters of a task's row that is taken."""


def random_tokens(count: int, seed: int) -> tuple[int, ...]:
    """Returns a prompt of random tokens, which no prefix cache holds."""
    return tuple(np.random.default_rng(seed).integers(*VOCABULARY, count).tolist())


def percentile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(np.asarray(values), q)) if values else math.nan


def cold_beside_busy(side: Side, ids: Sequence[str], slots: int, requests_each: int) -> dict[str, float]:
    """Keeps S adapters busy with two clients each and sends a request to another adapter every second."""
    busy = [
        Request(ids[adapter], random_tokens(16, 900_000 + number * 100 + adapter), 12)
        for number in range(requests_each)
        for adapter in range(slots)
    ]

    async def both() -> tuple[MeasuredLoad, MeasuredLoad]:
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
        return await running_, MeasuredLoad([one.answers[0] for one in done], 1.0)

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
    """Returns the gaps in seconds between the tokens of a running request while others come one at a time: each to an
    adapter that holds no slot (`cold`), or all to one that does."""

    async def both() -> MeasuredLoad:
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


def task_prompts(count: int) -> tuple[str, list[str]]:
    """Returns the source of the prompts and `count` different prompts of the tasks of `KINDS` in turn: rows of their
    test splits where the task data is (`benchmarks.common.tasks`), else made ones.

    Raises:
        ValueError: the task data has fewer rows.
    """
    data = data_folder()
    if data is None:
        return "made", [text_of(KINDS[number % len(KINDS)], PROMPT_WORDS, number) for number in range(count)]
    tasks = [read_prompts(data, task_of(kind.learnware), "test").whole for kind in KINDS]
    short = [[prompt for prompt in dict.fromkeys(task) if len(prompt) <= PROMPT_CHARACTERS] for task in tasks]
    found = [prompt for row in itertools.zip_longest(*short) for prompt in row if prompt is not None][:count]
    if len(found) < count:
        raise ValueError(f"{data} has {len(found)} rows of at most {PROMPT_CHARACTERS} characters; {count} are needed")
    return "rows of tasks", found


def lora_over_base(side: Side, ids: Sequence[str], rounds: int, per_client: int) -> dict[str, Any]:
    """Measures eight clients with real prompts, by phase and by model: the base model, one adapter or eight others, in
    turns on the same server. Prefill is requests a second (answers of one token), decode is tokens a second and request
    after the first token. The first round warms up.

    A round asks all three the same prompts; what one left in the prefix cache is of no use to the others, whose
    adapters differ.
    """
    adapters = {"base": [BASE_MODEL_ID], "one": [ids[0]], "eight": list(ids[1 : 1 + CLIENTS])}
    taken: dict[str, Any] = {phase: {kind: [] for kind in adapters} for phase in PHASES}
    count = CLIENTS * per_client
    source, prompts = task_prompts((rounds + 1) * len(PHASES) * count)
    fresh = iter(prompts)
    tokens = []
    for number in range(rounds + 1):
        for phase, answer in PHASES.items():
            asked = list(itertools.islice(fresh, count))
            for kind, models in adapters.items():
                requests = [Request(models[i % len(models)], prompt, answer) for i, prompt in enumerate(asked)]
                measured = asyncio.run(closed_loop(side.server.url, requests, CLIENTS))
                tokens += [one.prompt_tokens for one in measured.answers]
                if number:
                    speed = count / measured.seconds if phase == "prefill" else 1 / measured.tpot_p50
                    taken[phase][kind].append(speed)
    return taken | {"prompts": source, "prompt_tokens_mean": sum(tokens) / len(tokens)}
