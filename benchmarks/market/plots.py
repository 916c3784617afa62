"""Plots of `python -m benchmarks.market`: `--plots FOLDER` writes them as SVG. Needs matplotlib (the
`bench` extra)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.statistics import percentile_interval, picks_of
from benchmarks.market.choices import MarketScores, MeasuredMarket, Offered
from benchmarks.market.figures import calibration, means, tasks_by_domain
from specs.errors import InvalidInput


def write_plots(folder: Path, market: MeasuredMarket, found: MarketScores, at: Mapping[int, Offered]) -> list[Path]:
    """Draws scores by method and domain, regret by the number of learnwares, and calibration, as SVG files in `folder`.

    Raises:
        InvalidInput: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InvalidInput("--plots needs matplotlib: pip install 'learnware-serving[bench]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (
        ("scores", lambda figure: _scores(figure, market, found)),
        ("regret", lambda figure: _regret(figure, market, found, at)),
        ("calibration", lambda figure: _calibration(figure, found)),
    ):
        figure = Figure(figsize=(11, 4.5) if name == "scores" else (6, 4.5), layout="constrained")
        draw(figure)
        written.append(folder / f"{name}.svg")
        figure.savefig(written[-1])
    return written


def _scores(figure: Any, market: MeasuredMarket, found: MarketScores) -> None:
    columns = ("base", "random", "best single", *found.rules, "per task", "per request", "oracle")
    axes = figure.subplots(1, len(tasks_by_domain(market)), sharey=True, squeeze=False)[0]
    for axis, (domain, tasks) in zip(axes, tasks_by_domain(market).items(), strict=True):
        picks = picks_of([len(market.matrix[task].rows) for task in tasks])
        drawn = [means([found.columns[task].right[column] for task in tasks], picks) for column in columns]
        centres = np.array([values[0] for values in drawn])
        errors = np.abs(np.array([percentile_interval(values[1:]) for values in drawn]).T - centres)
        axis.barh(range(len(columns)), centres, xerr=errors, color="#4878a8", ecolor="#888888")
        axis.set(title=f"{domain} ({len(tasks)} tasks)", xlabel="accuracy", xlim=(0, 1))
        axis.set_yticks(range(len(columns)), columns)
        axis.invert_yaxis()


def _regret(figure: Any, market: MeasuredMarket, found: MarketScores, at: Mapping[int, Offered]) -> None:
    whole = Offered(
        {task: one.right["per request"] for task, one in found.columns.items()},
        {task: one.right["oracle"] for task, one in found.columns.items()},
    )
    sizes = sorted({**at, len(market.learnwares): whole}.items())
    picks = picks_of([len(scores.rows) for scores in market.matrix.values()])
    drawn = [means([one.oracle[task] - one.rights[task] for task in market.matrix], picks) for _, one in sizes]
    centres = np.array([values[0] for values in drawn])
    errors = np.abs(np.array([percentile_interval(values[1:]) for values in drawn]).T - centres)
    axis = figure.subplots()
    axis.errorbar([size for size, _ in sizes], centres, yerr=errors, marker="o", capsize=3)
    axis.axhline(0, color="#888888", linewidth=0.8)
    axis.set(xscale="log", xlabel="learnwares", ylabel="oracle less choice per request, accuracy")


def _calibration(figure: Any, found: MarketScores) -> None:
    error, bins = calibration(found.confidence)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    stated, observed, counts = (np.array(values) for values in zip(*bins, strict=True))
    spread = 1.96 * np.sqrt(np.maximum(observed * (1 - observed), 0.25 / counts) / counts)
    axis.errorbar(stated, observed, yerr=spread, marker="o", linestyle="", capsize=3)
    low = max(0.0, min(float(stated.min()), float((observed - spread).min())) - 0.05)
    axis.set(xlim=(low, 1.01), ylim=(low, 1.01), title=f"expected calibration error {error:.3f}")
    axis.set(xlabel="stated: at least as good as the base model", ylabel="observed")
