"""Measures what choosing the replica by learnware saves and costs: `python -m benchmarks.affinity`.

**Loads.** This stack with two engine replicas, once with replicas chosen by where adapters are (`affinity: true`), once
at random (`affinity: false`); same learnwares, same requests at the same times. Clients name the learnware, so that
what differs is the replica alone. Loads are counted by the replicas (`learnware_adapter_loads_total`, tier `device`),
after a first part of the requests that is not counted.

**Score.** What preferring a resident learnware costs: for each test row of the starter learnwares' tasks, without its
instruction line, and for many random states of two replicas, whether a learnware of the row's own task answers; with
the margin, less without. Every task has five learnwares: the starter and four whose specification holds a random part
of its points, as if made from other rows. Needs the rows (`--data`).

    affinity_loads_ratio        loads per request, affinity : random, 16 learnwares over 8 slots in each replica
    affinity_loads_ratio_n100   the same with 100 learnwares
    affinity_score_loss         share of rows no longer answered by a learnware of their own task
    affinity_quality_loss_max   the most expected quality that was given up; never above `resident_margin`

vLLM's automatic binding puts both replicas on the first core, so threads are not bound and each engine has one.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.common.arrivals import gamma_arrivals
from benchmarks.common.load import open_loop
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.servers import BASE_MODEL_ID, Server, free_port
from benchmarks.common.tasks import add_data_option, read_prompts, task_of
from benchmarks.paging.measure import PagingCell, make_load, percentile
from benchmarks.paging.sides import make_learnwares
from router.placement import DEVICE, HOST, Option, Placement, PlacementSettings, ReplicaState
from router.selection import Selector
from router.settings import SelectionSettings
from specs.capability import Capability, ProbeScore
from specs.encoding.encoder import load_prompt_encoder
from specs.learnware import Learnware, load_learnwares
from specs.specification import View

REPLICAS, SLOTS = 2, 8
CELLS = {"": PagingCell(16, SLOTS, 1.0, 1.0, 100), "_n100": PagingCell(100, SLOTS, 1.0, 1.0, 100)}
START_TIMEOUT_S = 900.0
LOADS, PLACEMENTS = "learnware_adapter_loads_total", "learnware_placements_total"
ROWS, STATES = 60, 20
"""The score is taken on so many rows of each task, and for each row in so many states of the replicas."""
OTHERS, POINTS_KEPT = 4, 0.6
"""Each task has so many further learnwares, each of which holds this share of the starter's points."""
GAINS, PROBE_ROWS = (0.2, 0.4), 30
"""The learnwares of one task gain between these over the base model on it, in probability, measured on so many rows."""


# -- loads


def metric(text: str, name: str, **labels: str) -> float:
    """Returns the sum of the metric's samples that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = (line for line in text.splitlines() if line.startswith(name + "{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(one in line for one in wanted))


def by_replica(text: str, name: str) -> list[float]:
    """Returns the metric's sum for each engine replica, in the order of the replicas' names."""
    replicas = {line.split('replica="')[1].split('"')[0] for line in text.splitlines() if line.startswith(name + "{")}
    return [metric(text, name, replica=replica) for replica in sorted(replicas)]


def start(affinity: bool, learnwares: Path, scratch: Path) -> Server:
    """Starts a stack with two engine replicas and returns it once it answers."""
    port = free_port()
    name = "affinity" if affinity else "random"
    file = scratch / f"{name}.yaml"
    engine = {"replicas": REPLICAS, "slots": SLOTS, "host_adapter_mib": 2048, "kv_cache_gib": 1.0}
    router = {"replicas": 1, "placement": {"affinity": affinity}}
    config = {"http": {"port": port}, "learnwares": {"folder": str(learnwares)}, "engine": engine, "router": router}
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("learnware-serving")), "serve", "--config", str(file)]
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    print(f"  starting two replicas, {name} …", flush=True)
    server = Server(name, command, f"http://127.0.0.1:{port}", scratch / f"{name}.log", environment)
    first = {"model": BASE_MODEL_ID, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        server.wait_for("/v1/chat/completions", START_TIMEOUT_S, json.dumps(first).encode())
    except BaseException:
        server.stop()
        raise
    return server


def measure(server: Server, ids: Sequence[str], cell: PagingCell, count: int, rate: float) -> dict[str, Any]:
    """Sends one load and returns its adapter loads and times; half as many requests before it warm the caches."""
    warm = count // 2
    requests = make_load(ids, cell, warm + count, seed=11)
    for part in (requests[:warm], requests[warm:]):
        at = gamma_arrivals(len(part), rate, cell.cv, seed=len(part)).tolist()
        before = server.wait_for("/metrics", 60).decode()
        measured = asyncio.run(open_loop(server.url, part, at))
        after = server.wait_for("/metrics", 60).decode()
    waits = [answer.ttft for answer in measured.answers]
    replicas = (by_replica(text, "learnware_requests_total") for text in (before, after))
    split = [b - a for a, b in zip(*replicas, strict=False)]
    return {
        "requests": count,
        "loads_per_request": (metric(after, LOADS, tier="device") - metric(before, LOADS, tier="device")) / count,
        "ttft_p50": percentile(waits, 0.5),
        "ttft_p99": percentile(waits, 0.99),
        "throughput": measured.throughput,
        "requests_by_replica": split,
        "placements": {
            why: metric(after, PLACEMENTS, why=why) - metric(before, PLACEMENTS, why=why)
            for why in ("home", "resident", "spread")
        },
    }


def measure_loads(count: int, rate: float) -> tuple[dict[str, float], dict[str, Any]]:
    """Measures both ways of choosing a replica, one stack after the other."""
    taken: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="affinity-") as scratch_name:
        scratch = Path(scratch_name)
        ids = make_learnwares(scratch / "learnwares", 100)
        for affinity in (True, False):
            server = start(affinity, scratch / "learnwares", scratch)
            try:
                for suffix, cell in CELLS.items():
                    name = f"{'affinity' if affinity else 'random'}{suffix}"
                    taken[name] = measure(server, ids, cell, count, rate)
                    print(f"  done: {name} {taken[name]}", flush=True)
            finally:
                server.stop()
    figures = {}
    for suffix in CELLS:
        ours, other = taken[f"affinity{suffix}"], taken[f"random{suffix}"]
        figures[f"affinity_loads_ratio{suffix}"] = ours["loads_per_request"] / other["loads_per_request"]
        figures[f"affinity_ttft_p99_ratio{suffix}"] = ours["ttft_p99"] / other["ttft_p99"]
    columns = ("loads_per_request", "ttft_p50", "ttft_p99", "throughput")
    rows = [[name, *(f"{one[column]:.2f}" for column in columns)] for name, one in taken.items()]
    print("\n" + table(["replica chosen", "loads/req", "TTFT p50 s", "p99 s", "tok/s"], rows))
    return figures, taken


# -- score


def measure_score(learnwares: Path, data: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns how often a learnware of the row's own task answers, with the margin and without it."""
    starters = load_learnwares(learnwares)
    generator = np.random.default_rng(0)
    others = (another(one, number, generator) for one in starters for number in range(OTHERS))
    market = [measured(one, generator) for one in (*starters, *others)]
    settings = SelectionSettings()
    encoder = load_prompt_encoder()
    selector = Selector(market, encoder, settings)
    everyone = [one.id for one in market]
    placement = Placement(settings.resident_margin, PlacementSettings())
    right_best, right_placed, given_up, other = [], [], [], []
    for learnware in starters:
        vectors = encoder.encode(read_prompts(data, task_of(learnware.id), "test", ROWS).whole)
        for vector in vectors:
            candidates = selector.choose_embedded(vector).candidates
            choices = [Option(one.learnware_id, one.learnware_id, one.quality) for one in candidates]
            for _ in range(STATES):
                placed = placement.place(choices, random_states(everyone, generator)).option
                right_best.append(choices[0].learnware.partition(".")[0] == learnware.id)
                right_placed.append(placed.learnware.partition(".")[0] == learnware.id)
                given_up.append(choices[0].quality - placed.quality)
                other.append(placed != choices[0])
    figures = {
        "affinity_score_loss": float(np.mean(right_best) - np.mean(right_placed)),
        "affinity_quality_loss_max": max(given_up),
        "resident_margin": settings.resident_margin,
    }
    details = {"rows": len(right_best) // STATES, "states": STATES, "score_best": float(np.mean(right_best))}
    return figures, details | {"score_placed": float(np.mean(right_placed)), "stood_in": float(np.mean(other))}


def another(starter: Learnware, number: int, generator: np.random.Generator) -> Learnware:
    """Returns a learnware of the starter's task that is specified by a random part of the starter's points."""
    original = starter.specified
    points, weights = original.whole_set
    kept = generator.choice(len(points), int(POINTS_KEPT * len(points)), replace=False)
    view = View("whole", len(kept), points[kept].astype(np.float16), weights[kept] / weights[kept].sum())
    part = replace(original, views=(view,), declined=None)
    return replace(starter, id=f"{starter.id}.{number}", specification=part)


def measured(learnware: Learnware, generator: np.random.Generator) -> Learnware:
    """Returns the learnware with a made-up score on its own task, so that learnwares of one task differ in quality."""
    gain = float(generator.uniform(*GAINS))
    score = ProbeScore(PROBE_ROWS, 0.5 + gain, 0.5 + gain, -0.5, 0.9, 0.5, 0.5, -0.5)
    probes = {f"{learnware.domain}-{task}": score for task in learnware.tasks}
    return replace(learnware, capability=Capability(learnware.base_model, "", "made up", probes))


def random_states(learnwares: Sequence[str], generator: np.random.Generator) -> dict[str, ReplicaState]:
    """Returns two replicas, each with some adapters on the device, others in host memory, and some requests."""
    states = {}
    for number in range(REPLICAS):
        held = generator.permutation(len(learnwares))[: 2 * SLOTS]
        tiers = {learnwares[one]: DEVICE if place < SLOTS else HOST for place, one in enumerate(held)}
        states[f"replica-{number}"] = ReplicaState(tiers, int(generator.integers(0, 20)))
    return states


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.affinity", description=__doc__.splitlines()[0])
    add_data_option(parser)
    parser.add_argument("--requests", type=int, default=160, help="measured requests of each load (default: 160)")
    parser.add_argument("--rate", type=float, default=3.0, help="requests a second (default: 3)")
    parser.add_argument("--only", choices=("loads", "score"), help="measure one of the two")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    conditions = setup() | {"requests": options.requests, "rate": options.rate, "replicas": REPLICAS, "slots": SLOTS}
    figures: dict[str, float] = {}
    details: dict[str, Any] = {}
    if options.only != "loads":
        if options.data is None:
            print("the score is left out: it needs the tasks' rows, --data")
        else:
            found, details["score"] = measure_score(options.learnwares, options.data)
            figures |= found
    if options.only != "score":
        found, details["loads"] = measure_loads(options.requests, options.rate)
        figures |= found
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    write_result(options, result("affinity", figures, conditions, details))
    return 0


if __name__ == "__main__":
    sys.exit(main())
