"""Measures what adapter paging costs: `python -m benchmarks.paging`.

This stack, whose clients name the learnware, against the stock vLLM server with the same model, adapters and flags;
the same requests at the same times go to both in turn, the side that goes first changing from round to round. The stock
server runs with this project's CPU operators, so that what differs is paging (side `stock`), and for one setting once
more with its own (side `plain`).

The adapters are random ones of rank 16 over all linear layers, a hundred, each read from files of its own. Lengths are
those of S-LoRA's synthetic workload (Sheng et al. 2024, section 7: prompt and answer uniform from 8 to 512 tokens),
both divided by 16 for a 135M model on one core; prompts are random tokens. Which adapter a request names follows a
power law; in each cell the requests arrive faster than either server answers (throughput at saturation) as a gamma
process with the cell's coefficient of variation.

Counts (slots filled, filled of need, files read) are taken inside the workers (`benchmarks.paging.counting_workers`),
for both sides alike.

Cells are kept in `--out` as they are done, so a run that was cut goes on. Figures:

    throughput_ratio_s8, _min           ours : stock at saturation, N = 100, S = 8, α = 1, cv = 1; smallest of all cells
    throughput_ratio_s8_stock_ops       the same against stock with its own operators
    ttft_p99_ratio_s8                   at 90 % of stock's saturation rate
    goodput, goodput_stock              there, requests a second within the objective (`SLO_TTFT_S`, `SLO_TPOT_S`)
    loads_per_request_ratio, loads_over_needed, disk_reads_in_step
                                        cold start: nothing resident, room in host memory for 30 of 100
    cold_wait_ratio                     S adapters always busy: p99 TTFT of requests to others, over the p99 of all
    token_gap_ratio                     p99 gap between tokens of a running request while cold adapters come, over the
                                        same prefills to a resident adapter
    lora_over_base_1, _8 (decode), lora_over_base_1_prefill, _8_prefill
                                        8 clients with real prompts, one adapter or eight, over the same requests to
                                        the base model
    n1000_over_n5, n1000_over_n5_s8     throughput with 1,000 adapters over that with 5, α = 1, with S = 48 and with
                                        S = 8, the starters' own adapters (`--full`)
"""

import argparse
import asyncio
import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.arrivals import gamma_arrivals, power_law, uniform_lengths
from benchmarks.common.load import MeasuredLoad, Request, open_loop
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.servers import embedded_base
from benchmarks.common.statistics import interval
from benchmarks.paging.loads import cold_beside_busy, lora_over_base, percentile, random_tokens, token_gaps
from benchmarks.paging.plots import plots_of
from benchmarks.paging.sides import WITHOUT, Side, learnware_ids, make_learnwares, running

SATURATING_RATE = 60.0
"""Arrivals a second at saturation, several times what two CPU cores answer."""
REQUESTS = 64
SHORT_REQUESTS = 48
LENGTHS, SCALE = (8, 512), 16
"""Range of tokens of prompts and of answers in S-LoRA's workload, and the divisor that is applied to them here."""


class Size(NamedTuple):
    """The size of a run: rounds of each cell and requests of each round. `full` adds the rest of the grid to the main
    cell, stock's own operators, the worth of each part, and 1,000 adapters."""

    rounds: int
    requests: int
    full: bool = False

    def cells(self, slots: int) -> "list[PagingCell]":
        return [cell for cell in [*GRID, SIXTEEN_OVER_EIGHT] if cell.slots == slots and (cell == MAIN or self.full)]

    @property
    def extra(self) -> tuple[str, ...]:
        return EXTRA if self.full else EXTRA[:-1]


class PagingCell(NamedTuple):
    """One setting of the grid: N adapters, S slots, power law α, coefficient of variation of the gaps, and the number
    of adapters that host memory holds."""

    adapters: int
    slots: int
    alpha: float
    cv: float
    host: int

    @property
    def name(self) -> str:
        return f"n{self.adapters}-s{self.slots}-a{self.alpha:g}-cv{self.cv:g}-h{self.host}"


GRID = [PagingCell(100, slots, alpha, cv, 100) for slots in (4, 8, 16) for alpha in (1.0, 0.3) for cv in (1.0, 4.0)]
"""All settings; for each number of slots the one nearest to the main cell comes first."""
SIXTEEN_OVER_EIGHT = PagingCell(16, 8, 0.3, 1.0, 100)
COLD_START = PagingCell(100, 8, 1.0, 1.0, 30)
MAIN = PagingCell(100, 8, 1.0, 1.0, 100)
EXTRA = ("rate", "busy", "gaps", "operators", "plain")
"""Loads that are measured in the main cell besides throughput; the last one with `--full` alone."""
SLO_TTFT_S, SLO_TPOT_S = 5.0, 0.5
"""The latency objective for a 135M model on one CPU core, seconds: goodput counts the requests whose first token comes
within the first, and whose further tokens come within the second each, on average."""
ADAPTERS = 100
FEW_AND_MANY = (5, 1000)
"""Numbers of adapters whose throughput is compared (`--full`)."""
MANY = (("many", 8, "n1000_over_n5_s8"), ("many-s48", 48, "n1000_over_n5"))
"""File of the result, slots and figure. The slots are those of the main cell, where they limit a batch to requests of
eight adapters, and those of `deploy/h100-8b.yaml`, where they do not."""


# -- loads


def make_load(ids: Sequence[str], cell: PagingCell, count: int, seed: int) -> list[Request]:
    """Returns the requests of a cell: prompts, output lengths and adapters; no prompt occurs twice."""
    which = power_law(count, cell.adapters, cell.alpha, seed)
    prompts = uniform_lengths(count, *LENGTHS, SCALE, seed + 1)
    answers = uniform_lengths(count, *LENGTHS, SCALE, seed + 2)
    return [
        Request(ids[adapter], random_tokens(int(prompt), seed * 100_003 + number), int(answer))
        for number, (adapter, prompt, answer) in enumerate(zip(which, prompts, answers, strict=True))
    ]


def measure(side: Side, requests: Sequence[Request], at: Sequence[float]) -> tuple[dict[str, Any], MeasuredLoad]:
    """Sends one open-loop load to one side and returns times and counts, and the load itself."""
    before = side.read_counts()
    measured = asyncio.run(open_loop(side.server.url, requests, at))
    counted = {name: value - before[name] for name, value in side.read_counts().items()}
    waits = [answer.ttft for answer in measured.answers]
    good = sum(answer.ttft <= SLO_TTFT_S and answer.tpot <= SLO_TPOT_S for answer in measured.answers)
    heat = {model: sum(r.model == model for r in requests) for model in {r.model for r in requests}}
    coldest = sorted(requests, key=lambda r: heat[r.model])[: max(1, len(requests) // 10)]
    cold = {id(request) for request in coldest}
    return {
        "throughput": measured.throughput,
        "requests_per_s": len(requests) / measured.seconds,
        "goodput": good / measured.seconds,
        "ttft_p50": percentile(waits, 0.5),
        "ttft_p99": percentile(waits, 0.99),
        "coldest_decile_ttft_p99": percentile(
            [a.ttft for r, a in zip(requests, measured.answers, strict=True) if id(r) in cold], 0.99
        ),
        "loads_per_request": counted["loads"] / len(requests),
        **counted,
    }, measured


def saturate(sides: dict[str, Side], ids: Sequence[str], cell: PagingCell, size: Size) -> dict[str, Any]:
    """Measures the throughput of each side at saturation, in turns."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(size.rounds + 1):
        requests = make_load(ids, cell, size.requests if number else size.requests // 4, seed=1000 * number + 7)
        at = gamma_arrivals(len(requests), SATURATING_RATE, cell.cv, seed=number).tolist()
        for name in list(sides) if number % 2 else reversed(list(sides)):
            figures, _ = measure(sides[name], requests, at)
            if number:  # the first is for warm-up
                taken[name].append(figures)
    return {"cell": cell._asdict(), "rounds": taken}


def under_rate(sides: dict[str, Side], ids: Sequence[str], cell: PagingCell, rate: float, size: Size) -> dict[str, Any]:
    """Measures the TTFT of each side at `rate` requests a second, in turns."""
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(size.rounds):
        requests = make_load(ids, cell, size.requests, seed=5000 + 1000 * number)
        at = gamma_arrivals(len(requests), rate, cell.cv, seed=50 + number).tolist()
        for name in list(sides) if number % 2 else reversed(list(sides)):
            taken[name].append(measure(sides[name], requests, at)[0])
    return {"rate": rate, "rounds": taken}


# -- the run


class Kept:
    """Results by name in one folder; those that are there are not measured again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))

    def write(self, name: str, content: Any) -> None:
        temporary = self.folder / f".{name}.json"
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(self.folder / f"{name}.json")
        print(f"  done: {name}", flush=True)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))


def run(kept: Kept, slots_wanted: Sequence[int], size: Size, scratch: Path, base: str) -> None:
    """Measures the results that are not kept yet, with one group of servers for each number of slots and of host
    adapters."""
    ids = learnware_ids(ADAPTERS)

    def serving(names: Sequence[str], slots: int, host: int) -> AbstractContextManager[dict[str, Side]]:
        folder = scratch / "learnwares"
        make_learnwares(folder, ADAPTERS, Path(base))
        return running(names, slots, host, folder, scratch, base)

    for slots in slots_wanted:
        cells = [cell for cell in size.cells(slots) if not kept.has(cell.name)]
        extra = [name for name in size.extra if slots == MAIN.slots and not kept.has(name)]
        if cells or extra:
            with serving(["ours", "stock", *(["plain"] if "plain" in extra else [])], slots, MAIN.host) as sides:
                both = {name: sides[name] for name in ("ours", "stock")}
                for cell in cells[:1]:
                    kept.write(cell.name, saturate(both, ids, cell, size))
                for name in extra:
                    kept.write(name, _extra(name, kept, sides, ids, size))
                for cell in cells[1:]:
                    kept.write(cell.name, saturate(both, ids, cell, size))
        if slots == MAIN.slots and not kept.has("cold-start"):
            requests = make_load(ids, COLD_START, size.requests + size.requests // 3, seed=77)
            at = gamma_arrivals(len(requests), SATURATING_RATE, COLD_START.cv, seed=77).tolist()
            with serving(["ours", "stock"], COLD_START.slots, COLD_START.host) as sides:
                kept.write("cold-start", {name: measure(side, requests, at)[0] for name, side in sides.items()})
    if size.full:
        for name in WITHOUT:
            if not kept.has(name):
                with serving(["ours", name], COLD_START.slots, COLD_START.host) as sides:
                    kept.write(name, saturate(sides, ids, COLD_START, size))
        for name, slots, _ in MANY:
            if not kept.has(name):
                kept.write(name, few_and_many(slots, size, scratch, base))


def few_and_many(slots: int, size: Size, scratch: Path, base: str) -> dict[str, list[dict[str, Any]]]:
    """Measures few adapters and many, one server each, in turns. The adapters are the starters' own: 1,000 of rank 16
    over all layers would need 20 GB."""
    loads = {}
    taken: dict[str, list[dict[str, Any]]] = {str(count): [] for count in FEW_AND_MANY}
    with ExitStack() as servers:
        for count in FEW_AND_MANY:
            folder = scratch / f"learnwares-{count}"
            ids = make_learnwares(folder, count)
            side = servers.enter_context(running(["ours"], slots, count, folder, scratch, base))["ours"]
            loads[str(count)] = (side, ids, MAIN._replace(adapters=count))
        for number in range(size.rounds + 1):
            for name, (side, ids, cell) in loads.items():
                requests = make_load(ids, cell, size.requests if number else size.requests // 4, seed=1000 * number + 7)
                at = gamma_arrivals(len(requests), SATURATING_RATE, cell.cv, seed=number).tolist()
                figures, _ = measure(side, requests, at)
                if number:
                    taken[name].append(figures)
    return taken


def _extra(name: str, kept: Kept, sides: dict[str, Side], ids: Sequence[str], size: Size) -> dict[str, Any]:
    """Measures one of `EXTRA` in the main cell."""
    both = {name: sides[name] for name in ("ours", "stock")}
    if name == "rate":
        stock = kept.read(MAIN.name)["rounds"]["stock"]
        rate = 0.9 * float(np.median([one["requests_per_s"] for one in stock]))
        return under_rate(both, ids, MAIN, rate, size._replace(requests=2 * size.requests))
    if name == "busy":
        return {name: cold_beside_busy(side, ids, MAIN.slots, 12) for name, side in both.items()}
    if name == "plain":
        return saturate({name: sides[name] for name in ("ours", "plain")}, ids, MAIN, size)
    if name == "operators":
        return lora_over_base(sides["ours"], ids, size.rounds, per_client=3)
    gaps: dict[str, Any] = {name: {"cold": [], "control": []} for name in both}
    for number in range(2 * size.rounds):
        for name, side in both.items():
            kind = "cold" if number % 2 else "control"
            gaps[name][kind] += token_gaps(side, ids, MAIN.slots, 40, cold=kind == "cold")
    return gaps


def summarise(kept: Kept) -> tuple[dict[str, float], dict[str, Any], list[list[str]]]:
    """Returns figures, details and the table's rows of the results that are kept."""
    figures: dict[str, float] = {}
    details: dict[str, Any] = {"cells": {}}
    rows = []
    for name in kept.names():
        content = kept.read(name)
        if "cell" not in content:
            details[name] = content
            continue
        (other,) = set(content["rounds"]) - {"ours"}
        ours, theirs = content["rounds"]["ours"], content["rounds"][other]
        ratios = [a["throughput"] / b["throughput"] for a, b in zip(ours, theirs, strict=True)]
        low, high = interval(ratios)
        details["cells"][name] = content | {"throughput_ratio": ratios, "interval_95": [low, high]}
        rows.append(
            [
                name,
                *(f"{np.median([one['throughput'] for one in side]):.0f}" for side in (ours, theirs)),
                f"{np.median(ratios):.2f} ({low:.2f} to {high:.2f})",
                *(f"{np.mean([one['loads_per_request'] for one in side]):.2f}" for side in (ours, theirs)),
                *(f"{np.median([one['coldest_decile_ttft_p99'] for one in side]):.1f}" for side in (ours, theirs)),
            ]
        )
        if name == "plain":
            figures["throughput_ratio_s8_stock_ops"] = float(np.median(ratios))
        elif name in WITHOUT:
            loads = [float(np.mean([one["loads_per_request"] for one in side])) for side in (ours, theirs)]
            figures[f"throughput_over_ours_{name.replace(' ', '_')}"] = 1 / float(np.median(ratios))
            figures[f"loads_over_ours_{name.replace(' ', '_')}"] = loads[1] / loads[0]
        else:
            figures["throughput_ratio_min"] = min(
                figures.get("throughput_ratio_min", math.inf), float(np.median(ratios))
            )
        if name == MAIN.name:
            figures["throughput_ratio_s8"] = float(np.median(ratios))
    if "rate" in details:
        sides = details["rate"]["rounds"]
        figures["ttft_p99_ratio_s8"] = float(
            np.median([a["ttft_p99"] / b["ttft_p99"] for a, b in zip(sides["ours"], sides["stock"], strict=True)])
        )
        for side, suffix in (("ours", ""), ("stock", "_stock")):
            rates = [one["goodput"] for one in sides[side] if "goodput" in one]
            if rates:
                figures[f"goodput{suffix}"] = float(np.median(rates))
    if "cold-start" in details:
        ours, stock = details["cold-start"]["ours"], details["cold-start"]["stock"]
        figures["loads_over_needed"] = ours["loads"] / max(ours["needed"], 1)
        figures["loads_over_needed_stock"] = stock["loads"] / max(stock["needed"], 1)
        figures["loads_per_request_ratio"] = ours["loads_per_request"] / stock["loads_per_request"]
        figures["disk_reads_in_step"] = float(ours["disk_reads_in_step"])
        figures["disk_reads_in_step_stock"] = float(stock["disk_reads_in_step"])
    if "busy" in details:
        for name, suffix in (("ours", ""), ("stock", "_stock")):
            figures[f"cold_wait_ratio{suffix}"] = (
                details["busy"][name]["cold_ttft_p99"] / details["busy"][name]["ttft_p99"]
            )
    if "operators" in details:
        for phase, suffix in (("decode", ""), ("prefill", "_prefill")):
            taken = details["operators"][phase]
            for kind, number in (("one", 1), ("eight", 8)):
                ratios = [a / b for a, b in zip(taken[kind], taken["base"], strict=True)]
                figures[f"lora_over_base_{number}{suffix}"] = float(np.median(ratios))
    for name, _, figure in MANY:
        if name in details:
            few, many = (details[name][str(count)] for count in FEW_AND_MANY)
            ratios = [a["throughput"] / b["throughput"] for a, b in zip(many, few, strict=True)]
            figures[figure] = float(np.median(ratios))
    if "gaps" in details:
        for name, suffix in (("ours", ""), ("stock", "_stock")):
            gaps = details["gaps"][name]
            figures[f"token_gap_ratio{suffix}"] = percentile(gaps["cold"], 0.99) / percentile(gaps["control"], 0.99)
    return figures, details, rows


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paging", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--slots", type=int, nargs="+", default=[8, 4, 16], choices=(4, 8, 16), help="with --full: part of the grid"
    )
    parser.add_argument("--rounds", type=int, help="measured rounds of each cell (default: 2; with --full 5)")
    parser.add_argument(
        "--full", action="store_true", help="5 rounds, the whole grid, what each part is worth, and 1,000 adapters"
    )
    parser.add_argument("--short", action="store_true", help="with fewer requests")
    parser.add_argument("--out", type=Path, default=Path("bench-results/paging"), help="folder of finished cells")
    parser.add_argument("--base", help="folder of the base model (default: the embedded one)")
    add_output_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    rounds = options.rounds or (5 if options.full else 2)
    size = Size(rounds, SHORT_REQUESTS if options.short else REQUESTS, options.full)
    conditions = setup()
    kept = Kept(options.out / f"rounds-{size.rounds}-requests-{size.requests}")
    with tempfile.TemporaryDirectory(prefix="paging-") as scratch:
        slots = options.slots if size.full else [MAIN.slots]
        run(kept, slots, size, Path(scratch), options.base or embedded_base())
    figures, details, rows = summarise(kept)
    header = [
        "cell",
        "ours tok/s",
        "other tok/s",
        "ratio (95 %)",
        "ours loads/req",
        "other",
        "ours cold p99 s",
        "other",
    ]
    print("\n" + table(header, rows) + "\n")
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    content = result("paging", figures, conditions | {"rounds": size.rounds, "requests": size.requests}, details)
    write_result(options, content, plots_of(content) if options.html else ())
    return 0
