"""Compares the simulator with a measurement: step costs are fitted to some cells of `benchmarks.paging`, others are
predicted.

The simulated engine gets the very requests of the measurement, at the same times. What a run took is taken as a sum
over its steps (`benchmarks.simulate.costs.Linear`); its five coefficients are found by least squares, none below zero.
Since the steps themselves depend a little on the costs, simulating and fitting alternate.

The cells are put into two halves, and each half is predicted with coefficients fitted to the other.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from benchmarks.common.arrivals import gamma_arrivals
from benchmarks.common.report import table
from benchmarks.common.servers import embedded_base
from benchmarks.paging.measure import REQUESTS, SATURATING_RATE, PagingCell, Size, make_load, saturate
from benchmarks.paging.sides import MAX_NUM_SEQS, make_learnwares, running
from benchmarks.simulate.cluster import Cluster, at_random
from benchmarks.simulate.costs import Costs, Linear
from benchmarks.simulate.engine import Engine, Shape, Totals
from benchmarks.simulate.job import Job
from benchmarks.simulate.stock_policies import StockQueue, StockSlots

SIDES = ("ours", "stock")
"""Sides with the same operators, and so with the same costs."""
STEP_TOKENS = 2048
"""Tokens of a step: vLLM 0.29's default where no other is set."""
KV_TOKENS = 23_301
"""Tokens whose keys and values fit into 1 GiB, for the embedded base model in float32 (`deploy/cpu.yaml`). In bfloat16
twice as many fit; neither is ever used up here."""
START = Linear(per_step=0.05, per_row=0.005, per_prefilled=0.002, per_adapter=0.003, per_load=0.01)
FITS = 4
MEASURED_SLOTS = 8
MEASURED = [PagingCell(adapters, MEASURED_SLOTS, alpha, 1.0, 100) for adapters in (8, 16, 100) for alpha in (0.3, 1.0)]
MEASURED_SIZE = Size(rounds=2, requests=48)


class CellRound(NamedTuple):
    """One measured round of a cell on one side, or its simulation."""

    cell: str
    side: str
    seconds: float
    tokens: int
    requests: int
    loads: int
    work: tuple[float, ...]
    """The work that the coefficients multiply: steps, rows, prefilled, adapters, loads. It is empty for a
    measurement."""

    @property
    def throughput(self) -> float:
        return self.tokens / self.seconds


def measure() -> dict[str, Any]:
    """Measures, on this stack alone, cells in which all adapters fit, in which none do, and between; returns them as
    the `details` of `benchmarks.paging`."""
    with tempfile.TemporaryDirectory(prefix="simulate-") as scratch_name:
        scratch = Path(scratch_name)
        ids = make_learnwares(scratch / "learnwares", 100, Path(embedded_base()))
        with running(["ours"], MEASURED_SLOTS, 100, scratch / "learnwares", scratch, "") as sides:
            cells = {}
            # the last one twice, and the second time counts: a stack that has just started is slow
            for cell in [MEASURED[-1], *MEASURED]:
                cells[cell.name] = saturate(sides, ids, cell, MEASURED_SIZE)
                print(f"  done: {cell.name}", flush=True)
    return {"cells": cells}


def jobs_of(cell: PagingCell, number: int, count: int, start: float) -> list[Job]:
    """Returns the requests of a cell's round, as `benchmarks.paging` sends them."""
    ids = [str(adapter) for adapter in range(cell.adapters)]
    requests = make_load(ids, cell, count if number else count // 4, seed=1000 * number + 7)
    at = gamma_arrivals(len(requests), SATURATING_RATE, cell.cv, seed=number)
    return [
        Job(index, int(one.model), start + float(when), len(one.prompt), one.max_tokens)
        for index, (one, when) in enumerate(zip(requests, at, strict=True))
    ]


def simulate(cell: PagingCell, side: str, rounds: int, count: int, costs: Costs) -> list[CellRound]:
    """Simulates all rounds of a cell, of `count` requests each, on one engine, after the round for warm-up."""
    shape = Shape(cell.slots, MAX_NUM_SEQS, STEP_TOKENS, KV_TOKENS, cell.adapters, 1)
    stock = (StockQueue(cell.slots), StockSlots(cell.slots)) if side == "stock" else (None, None)
    engine = Engine(shape, costs, *stock)
    engine.hold(range(cell.adapters))
    runs, now = [], 0.0
    for number in range(rounds + 1):
        jobs = jobs_of(cell, number, count, now)
        engine.totals = Totals()
        now = Cluster({side: engine}, at_random()).run(jobs)
        totals = engine.totals
        work = (totals.steps, totals.decoded, totals.prefilled, totals.adapters, totals.loads)
        seconds = now - jobs[0].arrival
        runs.append(CellRound(cell.name, side, seconds, sum(job.output for job in jobs), len(jobs), totals.loads, work))
    return runs[1:]


def measured_runs(cell: PagingCell, count: int, rounds: Mapping[str, Sequence[Mapping[str, float]]]) -> list[CellRound]:
    """Returns the measured rounds of one cell, from the JSON's form."""
    return [
        CellRound(
            cell.name,
            side,
            count / one["requests_per_s"],
            round(one["throughput"] * count / one["requests_per_s"]),
            count,
            int(one["loads"]),
            (),
        )
        for side in SIDES
        for one in rounds.get(side, ())
    ]


def fit(cells: Mapping[PagingCell, Sequence[CellRound]]) -> Linear:
    """Returns the coefficients that explain the measured rounds of these cells best, in relative error."""
    costs = START
    for _ in range(FITS):
        rows, seconds = [], []
        for cell, runs in cells.items():
            for side in SIDES:
                found = [run for run in runs if run.side == side]
                if not found:
                    continue
                expected = simulate(cell, side, len(found), found[0].requests, costs)
                for run, simulated in zip(found, expected, strict=True):
                    rows.append(simulated.work)
                    seconds.append(run.seconds)
        taken = np.asarray(seconds)
        coefficients, _ = nnls(np.asarray(rows, dtype=float) / taken[:, None], np.ones(len(taken)))
        costs = Linear(*coefficients.tolist())
    return costs


def compare(cell: PagingCell, runs: Sequence[CellRound], costs: Costs) -> list[dict[str, Any]]:
    """Returns measured and predicted throughput, the median of a cell's rounds for each side."""
    compared = []
    for side in SIDES:
        found = [run for run in runs if run.side == side]
        if not found:
            continue
        predicted = simulate(cell, side, len(found), found[0].requests, costs)
        throughput, expected = (float(np.median([one.throughput for one in some])) for some in (found, predicted))
        loads, expected_loads = (
            sum(one.loads / one.requests for one in some) / len(some) for some in (found, predicted)
        )
        compared.append(
            {
                "cell": cell.name,
                "side": side,
                "throughput": throughput,
                "predicted": expected,
                "error_percent": 100 * abs(expected / throughput - 1),
                "loads_per_request": loads,
                "predicted_loads_per_request": expected_loads,
            }
        )
    return compared


def check(file: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Fits and predicts the cells of a file; prints and returns figures and details.

    Raises:
        ValueError: the file has fewer than four cells.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    count = content["setup"].get("requests", REQUESTS)
    cells = {
        cell: measured_runs(cell, count, one["rounds"])
        for name, one in sorted(content["details"]["cells"].items())
        if name == (cell := PagingCell(**one["cell"])).name
    }
    if len(cells) < 4:
        raise ValueError(f"{file} has {len(cells)} cells; at least four are needed, to fit two and predict two")
    halves = [dict(list(cells.items())[start::2]) for start in (0, 1)]
    compared, fitted = [], []
    for known, unknown in (halves, halves[::-1]):
        costs = fit(known)
        fitted.append(costs)
        for cell, runs in unknown.items():
            compared += compare(cell, runs, costs)
    errors = [one["error_percent"] for one in compared]
    figures = {
        "prediction_error_percent": float(np.mean(errors)),
        "prediction_error_median_percent": float(np.median(errors)),
        "prediction_error_worst_percent": max(errors),
        "cells_predicted": float(len(cells)),
    }
    rows = [
        [
            f"{one['cell']} {one['side']}",
            *(f"{one[name]:.1f}" for name in ("throughput", "predicted", "error_percent")),
            *(f"{one[name]:.2f}" for name in ("loads_per_request", "predicted_loads_per_request")),
        ]
        for one in compared
    ]
    print(table(["cell", "tok/s", "predicted", "error %", "loads/req", "predicted"], rows))
    for name, value in figures.items():
        print(f"{name}: {value:.1f}")
    return figures, {"cells": compared, "costs": [vars(one) for one in fitted]}
