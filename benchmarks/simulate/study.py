"""Simulates adapter paging where it has not been run: `python -m benchmarks.simulate`.

The policies are the code that serves (waiting queue, slots, host memory, placement); time is simulated by a cost model
(`benchmarks.simulate.costs`, whose constants name their source). Nothing here was measured on a GPU. Three questions:

1. How many adapter slots against how much room for keys and values, for 100 adapters and Qwen3-8B on one H100? Answered
   by goodput: the highest rate of requests of which 99 % have a first token within 1 s and further ones within 50 ms on
   average. The smallest number of slots within 5 % of the best is wanted.
2. What happens from 1 to 64 replicas and from 100 to 100,000 learnwares, at a fixed rate for each replica?
3. What gives out first? Sizes at which each part reaches its limit.

`--check FILE` holds the simulation against a measurement, the JSON of `benchmarks.paging`: step costs are fitted to
half of its cells, the throughput of the others is predicted (`prediction_error_percent`). `--measure FILE` measures six
cells on this machine for it (one engine, some minutes).

Not modelled: prefix cache, preemption (a request reserves its whole length), tensor parallelism, the network.
"""

import argparse
import json
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.arrivals import gamma_arrivals, power_law
from benchmarks.common.report import add_output_options, result, setup, table, write_json, write_result
from benchmarks.simulate.check import MEASURED_SIZE, check, measure
from benchmarks.simulate.cluster import Cluster, at_random, by_placement
from benchmarks.simulate.costs import DISK_BYTES_PER_S, GIB, H100, HBM_SHARE, adapter_bytes, kv_tokens
from benchmarks.simulate.engine import Engine, Shape
from benchmarks.simulate.job import Job
from router.placement import DEVICE, HOST, Option, Placement, PlacementSettings, ReplicaState

RANK = 32
SHIPPED_SLOTS = 48
SEATS = 128
STEP_TOKENS = 8192
HOST_ADAPTERS = 384
"""The sizes above are those of `deploy/h100-8b.yaml`."""

TTFT_LIMIT_S, TPOT_LIMIT_S, WITHIN = 1.0, 0.05, 0.99
"""The latency objective: a person waits a second for an answer to begin, and reads slower than twenty tokens a
second."""
NEAR_BEST = 0.95
RATES, RATE_STEP = (0.25, 64.0), 1.04
"""Range of rates in which a goodput is searched, and the factor to which it is found."""
ADAPTERS = 100


class Workload(NamedTuple):
    """A workload: uniformly distributed tokens of prompts and answers, and the power law of the adapters."""

    name: str
    prompt: tuple[int, int]
    output: tuple[int, int]
    alpha: float
    requests: int


CHAT = Workload("chat", (8, 512), (8, 512), 1.0, 600)
"""Chat traffic with lengths as in the evaluation of S-LoRA (Sheng et al. 2024)."""
WORKLOADS = (
    CHAT,
    Workload("chat, alpha 0.3", (8, 512), (8, 512), 0.3, 600),
    Workload("long answers", (256, 2048), (1024, 4096), 1.0, 120),
)
SLOTS = (16, 32, 48, 64, 80, 100)
REPLICAS = (1, 4, 16, 64)
LEARNWARES = (100, 1_000, 10_000, 100_000)
RATE_EACH = 12.0
"""Requests a second for each replica, about 60 % of what one with 48 slots can do."""
SECONDS, FEWEST_REQUESTS = 4.0, 600
"""Simulated seconds of a size, and the least number of requests, for which the time is made longer."""


def make_jobs(work: Workload, count: int, adapters: int, rate: float, seed: int = 0) -> list[Job]:
    """Returns requests that arrive as a Poisson process."""
    which, at = power_law(count, adapters, work.alpha, seed), gamma_arrivals(count, rate, 1.0, seed + 1)
    generator = np.random.default_rng(seed + 2)
    prompts = generator.integers(work.prompt[0], work.prompt[1] + 1, count)
    outputs = generator.integers(work.output[0], work.output[1] + 1, count)
    return [
        Job(number, int(adapter), float(when), int(prompt), int(output))
        for number, (adapter, when, prompt, output) in enumerate(zip(which, at, prompts, outputs, strict=True))
    ]


def by_heat(adapters: int, seed: int = 0) -> NDArray[np.int64]:
    """Returns the adapters of `make_jobs`, the most popular first."""
    return np.random.default_rng(seed).permutation(adapters)


def shape_of(slots: int) -> Shape:
    size = adapter_bytes(RANK)
    return Shape(slots, SEATS, STEP_TOKENS, kv_tokens(slots, RANK), HOST_ADAPTERS * size, size)


def quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(np.asarray(values), q))


# -- 1: slots against keys and values


def in_time(slots: int, work: Workload, rate: float, costs: H100) -> bool:
    """Tells whether enough requests are answered in time at this rate."""
    engine = Engine(shape_of(slots), costs)
    engine.hold(range(ADAPTERS))
    late = 0
    allowed = (1 - WITHIN) * work.requests

    def too_many(job: Job) -> bool:
        nonlocal late
        late += job.ttft > TTFT_LIMIT_S or job.tpot > TPOT_LIMIT_S
        return late > allowed

    Cluster({"0": engine}, at_random()).run(make_jobs(work, work.requests, ADAPTERS, rate), too_many)
    return late <= allowed


def goodput(slots: int, work: Workload, costs: H100) -> float:
    """Returns the goodput in requests a second, to one `RATE_STEP`: found by halving on a geometric scale."""
    low, high = RATES
    while high / low > RATE_STEP:
        middle = (low * high) ** 0.5
        if in_time(slots, work, middle, costs):
            low = middle
        else:
            high = middle
    return low


def plan(slots: Sequence[int], works: Sequence[Workload], costs: H100) -> dict[str, dict[int, float]]:
    """Returns the goodput by workload and number of slots."""
    return {work.name: {count: goodput(count, work, costs) for count in slots} for work in works}


def wanted_slots(found: dict[int, float]) -> int:
    """Returns the fewest slots with nearly the best goodput."""
    return min(slots for slots, rate in found.items() if rate >= NEAR_BEST * max(found.values()))


# -- 2: more replicas, more learnwares


def scale(replicas: int, learnwares: int, affinity: bool, seconds: float) -> dict[str, float]:
    """Simulates warm replicas (host memory and slots hold the most popular adapters of each) at a fixed rate for
    each."""
    placement = Placement(0.0, PlacementSettings())
    engines = {f"replica-{number}": Engine(shape_of(SHIPPED_SLOTS), H100(RANK)) for number in range(replicas)}
    heat = by_heat(learnwares)
    share: dict[str, list[int]] = {name: [] for name in engines}
    for adapter in heat[: 2 * HOST_ADAPTERS * replicas]:
        share[placement.order(str(adapter), engines)[0]].append(int(adapter))
    for name, engine in engines.items():
        warm = list(dict.fromkeys([*(share[name] if affinity else ()), *heat[:HOST_ADAPTERS].tolist()]))
        engine.hold(warm[:HOST_ADAPTERS])
        engine.slots.use(warm[:SHIPPED_SLOTS])
    count = max(FEWEST_REQUESTS, int(RATE_EACH * replicas * seconds))
    jobs = make_jobs(CHAT, count, learnwares, RATE_EACH * replicas)
    end = Cluster(engines, by_placement(placement) if affinity else at_random()).run(jobs)
    waits = [job.ttft for job in jobs]
    totals = [engine.totals for engine in engines.values()]
    busiest = max(one.decoded for one in totals) / np.mean([one.decoded for one in totals])
    return {
        "ttft_p50": quantile(waits, 0.5),
        "ttft_p99": quantile(waits, 0.99),
        "loads_per_request": sum(one.loads for one in totals) / len(jobs),
        "reads_per_request": sum(one.reads for one in totals) / len(jobs),
        "busiest_over_mean": float(busiest),
        "seconds": end,
    }


# -- 3: limits


class Limit(NamedTuple):
    """A limit: a part, the size at which it gives out, the reason, and the effect."""

    part: str
    reached: str
    because: str
    effect: str


LEARNWARE_IN_ROUTER_BYTES = 120 * (536 * 2 + 64 * 4)
"""Bytes of a learnware in a router: a specification's 120 points in the encoder's 536 dimensions (float16) and in the
index's 64 (float32)."""
ROUTER_BYTES = 8 * GIB
"""Memory that a router process may take on a node that also holds an engine."""
ROUTERS_PER_NODE = 2
CONTROLLER_ROUNDS_PER_S = 10
"""Rounds a second of Ray Serve 2.60's controller: it runs its loop every 0.1 s, and sends all replicas' reports to
every router when one changed."""
REFIT_LIMIT_S = 60.0
"""Seconds after which a new fit of the index is late: a router begins one beside the requests after 5 % of changes."""


def seconds_of(action: Callable[[], object], rounds: int) -> float:
    """Returns the median seconds of one call."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def fan_out(replicas: int) -> float:
    """Returns the share of one core that Ray's controller needs to serialise all replicas' reports for every router,
    with one node for each replica."""
    report = {f"finance-sentiment-{number:04d}@0123456789ab": HOST for number in range(HOST_ADAPTERS)}
    reports = [
        {"adapters": report | {f"only-{number}": HOST}, "running": 1, "waiting": 0} for number in range(replicas)
    ]
    each = seconds_of(lambda: pickle.dumps(reports), 5)
    return each * CONTROLLER_ROUNDS_PER_S * ROUTERS_PER_NODE * replicas


def placing_seconds(replicas: int) -> float:
    """Returns the seconds of one placement among this many replicas, with five learnwares within the margin and known
    orders."""
    placement = Placement(1.0, PlacementSettings())
    states = {
        f"replica-{number}": ReplicaState(
            {f"adapter-{number}-{one}": DEVICE for one in range(SHIPPED_SLOTS)}, number % 8
        )
        for number in range(replicas)
    }
    options = [Option(f"adapter-{number}-0", f"adapter-{number}-0", 0.5) for number in range(5)]
    placement.place(options, states)
    return seconds_of(lambda: placement.place(options, states), 300)


def limits(refit_seconds: float | None, fan_out_at: dict[int, float]) -> list[Limit]:
    """Returns the limit of each part, by arithmetic on the constants above and on what was timed here."""
    size = adapter_bytes(RANK)
    found = [
        Limit(
            "host memory of a replica",
            f"{HOST_ADAPTERS} learnwares each",
            f"{HOST_ADAPTERS} x {size / 2**20:.0f} MiB = {HOST_ADAPTERS * size / GIB:.0f} GiB",
            "the rest is read from disk when it is asked for",
        ),
        Limit(
            "disk of a replica",
            f"{DISK_BYTES_PER_S / size:.0f} cold learnwares a second",
            f"{size / 2**20:.0f} MiB at {DISK_BYTES_PER_S / 1e9:g} GB/s",
            "requests to cold learnwares wait, others do not",
        ),
        Limit(
            "memory of a router process",
            f"{ROUTER_BYTES // LEARNWARE_IN_ROUTER_BYTES:,} learnwares",
            f"{LEARNWARE_IN_ROUTER_BYTES / 1000:.0f} kB a specification, {ROUTER_BYTES // GIB} GiB",
            "the router does not start",
        ),
    ]
    over = [replicas for replicas, share in fan_out_at.items() if share >= 1]
    found.append(
        Limit(
            "Ray's controller, reports to routers",
            f"{min(over)} replicas" if over else f"more than {max(fan_out_at)} replicas",
            ", ".join(f"{replicas}: {share:.2f} of a core" for replicas, share in fan_out_at.items()),
            "reports come late, so placement works on older states",
        )
    )
    if refit_seconds is not None:
        found.append(
            Limit(
                "a router's index fitted anew",
                f"{int(10_000 * REFIT_LIMIT_S / refit_seconds):,} learnwares",
                f"{refit_seconds:.0f} s for 10,000 (`benchmarks.routing`), in proportion",
                "changes are seen at once, but for more than a minute chosen by the old fit",
            )
        )
    return found


def measured_refit_seconds() -> float | None:
    """Returns the seconds of fitting the index of 10,000 learnwares anew, from the last run of `benchmarks.routing`;
    None without one."""
    file = Path(__file__).parents[1] / "results" / "routing.json"
    if not file.is_file():
        return None
    seconds: float | None = json.loads(file.read_text(encoding="utf-8"))["figures"].get("rebuild_s_n10000")
    return seconds


# -- the run


def show_plan(found: dict[str, dict[int, float]]) -> dict[str, float]:
    slots = list(next(iter(found.values())))
    print("Goodput, requests a second, 100 adapters of rank 32, one H100:\n")
    header = ["slots", "room, tokens", *found]
    rows = [
        [str(count), f"{kv_tokens(count, RANK):,}", *(f"{rates[count]:.1f}" for rates in found.values())]
        for count in slots
    ]
    print(table(header, rows))
    figures = {}
    for name, rates in found.items():
        wanted = wanted_slots(rates)
        key = name.replace(",", "").replace(" ", "_")
        figures[f"slots_{key}"] = float(wanted)
        shipped = ""
        if SHIPPED_SLOTS in rates:
            share = figures[f"shipped_over_best_{key}"] = rates[SHIPPED_SLOTS] / max(rates.values())
            shipped = f"; the shipped {SHIPPED_SLOTS} reach {share:.2f} of the best"
        print(f"{name}: {wanted} slots are enough{shipped}")
    return figures


def show_scale(replicas: Sequence[int], learnwares: Sequence[int], seconds: float) -> tuple[dict[str, float], Any]:
    figures, details, rows = {}, {}, []
    for count in replicas:
        for many in learnwares:
            ours = scale(count, many, affinity=True, seconds=seconds)
            random_ = scale(count, many, affinity=False, seconds=seconds)
            details[f"r{count}-n{many}"] = {"affinity": ours, "random": random_}
            rows.append(
                [
                    f"{count} x {many:,}",
                    *(f"{one['ttft_p99']:.2f}" for one in (ours, random_)),
                    *(f"{one['loads_per_request']:.2f}" for one in (ours, random_)),
                    *(f"{one['reads_per_request']:.2f}" for one in (ours, random_)),
                    f"{ours['busiest_over_mean']:.2f}",
                ]
            )
            figures[f"ttft_p99_r{count}_n{many}"] = ours["ttft_p99"]
            figures[f"reads_per_request_r{count}_n{many}"] = ours["reads_per_request"]
    print(f"\n{RATE_EACH:g} requests a second for each replica, chat; affinity | random replica:\n")
    header = ["replicas x learnwares", "TTFT p99 s", "random", "loads/req", "random", "disk/req", "random", "busiest"]
    print(table(header, rows))
    return figures, details


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="+", default=list(SLOTS), help="numbers of slots to compare")
    parser.add_argument("--replicas", type=int, nargs="+", default=list(REPLICAS), help="numbers of replicas")
    parser.add_argument("--learnwares", type=int, nargs="+", default=list(LEARNWARES), help="numbers of learnwares")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"simulated time of each size (default: {SECONDS:g})"
    )
    parser.add_argument("--hbm-share", type=float, default=HBM_SHARE, help="share of the memory bandwidth reached")
    parser.add_argument(
        "--check", type=Path, metavar="FILE", help="compare with this JSON of benchmarks.paging, no more"
    )
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure cells for --check on this machine")
    add_output_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    conditions = setup() | {"hbm_share": options.hbm_share, "rank": RANK, "seconds": options.seconds}
    if options.measure:
        size = MEASURED_SIZE._asdict()
        write_json(options.measure, result("simulate-measured", {}, conditions | size, measure()))
        return 0
    if options.check:
        figures, details = check(options.check)
        write_result(options, result("simulate", figures, conditions, details))
        return 0
    planned = plan(options.slots, WORKLOADS, H100(RANK, options.hbm_share))
    figures = show_plan(planned)
    scaled, details = show_scale(options.replicas, options.learnwares, options.seconds)
    fan_out_at = {replicas: fan_out(replicas) for replicas in (8, 16, 32, 64)}
    placing = placing_seconds(max(options.replicas))
    print(f"\nOne placement among {max(options.replicas)} replicas: {1e6 * placing:.0f} µs\n")
    found = limits(measured_refit_seconds(), fan_out_at)
    print(table(["part", "gives out at", "because", "then"], [list(one) for one in found]))
    figures |= scaled | {"placing_us": 1e6 * placing}
    figures |= {f"controller_share_r{replicas}": share for replicas, share in fan_out_at.items()}
    details = {"goodput": planned, "scale": details, "limits": [one._asdict() for one in found]}
    write_result(options, result("simulate", figures, conditions, details))
    return 0
