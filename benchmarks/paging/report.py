"""The one-page HTML report of `benchmarks.paging`: plots beside the figures, in one file without links."""

import base64
import html
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIDES = (("ours", "C0"), ("stock", "C1"))


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the report of a benchmark's result (`benchmarks.common.report.result`)."""
    import matplotlib as mpl

    mpl.use("Agg")
    cells = [cell for name, cell in content["details"]["cells"].items() if name != "plain"]
    quantities = (
        ("throughput", "output tokens/s at saturation"),
        ("ttft_p99", "TTFT p99, s (at saturation: waiting included)"),
        ("coldest_decile_ttft_p99", "TTFT p99 of the coldest tenth of requests, s"),
    )
    images = [_grid(cells, quantity, title) for quantity, title in quantities] + [_loads(cells)]
    figures = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.3f}</td></tr>" for name, value in content["figures"].items()
    )
    setup = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in content["setup"].items()
    )
    plots = "".join(f'<img alt="" src="data:image/png;base64,{image}">' for image in images if image)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "<!doctype html><meta charset='utf-8'><title>Adapter paging</title>"
        "<style>body{font:14px sans-serif;max-width:70em;margin:2em auto}img{max-width:100%}"
        "td{padding:.1em .6em;border-bottom:1px solid #ddd}</style>"
        f"<h1>Adapter paging</h1><table>{figures}</table>{plots}<h2>Setup</h2><table>{setup}</table>",
        encoding="utf-8",
    )
    print(f"written: {path}")


def _grid(cells: list[Any], quantity: str, title: str) -> str:
    """A quantity against the number of slots, a plot for each α and cv."""
    from matplotlib.figure import Figure

    settings = sorted(
        {(cell["cell"]["alpha"], cell["cell"]["cv"]) for cell in cells if cell["cell"]["adapters"] == 100}
    )
    if not settings:
        return ""
    figure = Figure(figsize=(3.2 * len(settings), 2.8), layout="constrained")
    figure.suptitle(title)
    for axes, (alpha, cv) in zip(np.atleast_1d(figure.subplots(1, len(settings))), settings, strict=True):
        for side, colour in SIDES:
            points = sorted(
                (cell["cell"]["slots"], [one[quantity] for one in cell["rounds"][side]])
                for cell in cells
                if (cell["cell"]["alpha"], cell["cell"]["cv"]) == (alpha, cv)
                and cell["cell"]["adapters"] == 100
                and side in cell["rounds"]
            )
            slots = [slots for slots, _ in points]
            axes.plot(slots, [np.median(values) for _, values in points], f"{colour}o-", label=side)
            for place, values in points:
                axes.plot([place] * len(values), values, f"{colour}.", alpha=0.4)
        axes.set(title=f"α = {alpha:g}, cv = {cv:g}", xlabel="slots", ylim=(0, None))
        axes.legend()
    return _png(figure)


def _loads(cells: list[Any]) -> str:
    """Slots filled against slots that had to be filled, all cells."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for side, colour in SIDES:
        rounds = [one for cell in cells for one in cell["rounds"].get(side, ())]
        axes.plot([one["needed"] for one in rounds], [one["loads"] for one in rounds], f"{colour}.", label=side)
    axes.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axes.set(title="adapter loads", xlabel="needed", ylabel="performed")
    axes.legend()
    return _png(figure)


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
