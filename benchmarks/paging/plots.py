"""Plots for the page of `benchmarks.paging`."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

SIDES = (("ours", "C0"), ("stock", "C1"))


def plots_of(content: Mapping[str, Any]) -> list[bytes]:
    """Draws a result of `benchmarks.paging` (`benchmarks.common.report.result`): throughput and TTFT against the number
    of slots, and adapter loads against those that were needed, each as a PNG file."""
    import matplotlib as mpl

    mpl.use("Agg")
    cells = [cell for name, cell in content["details"]["cells"].items() if name != "plain"]
    quantities = (
        ("throughput", "output tokens/s at saturation"),
        ("ttft_p99", "TTFT p99, s (at saturation: waiting included)"),
        ("coldest_decile_ttft_p99", "TTFT p99 of the coldest tenth of requests, s"),
    )
    drawn = [_grid(cells, quantity, title) for quantity, title in quantities]
    return [image for image in (*drawn, _loads(cells)) if image is not None]


def _grid(cells: list[Any], quantity: str, title: str) -> bytes | None:
    """Draws a quantity against the number of slots, one plot for each α and cv; None without cells."""
    from matplotlib.figure import Figure

    settings = sorted(
        {(cell["cell"]["alpha"], cell["cell"]["cv"]) for cell in cells if cell["cell"]["adapters"] == 100}
    )
    if not settings:
        return None
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


def _loads(cells: list[Any]) -> bytes:
    """Draws the adapter loads of all cells against those that were needed."""
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


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
