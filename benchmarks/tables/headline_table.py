"""The table of four figures on the project's first page."""

from collections.abc import Sequence

from benchmarks.tables.cells import HUNDREDTHS, PERCENT, Quantity, Result, Results, Table, at_most, with_interval
from benchmarks.tables.choice_tables import REWORDED_AIM
from benchmarks.tables.engine_tables import THROUGHPUT_AIM

THROUGHPUT = Quantity("throughput_ratio_c8", HUNDREDTHS, THROUGHPUT_AIM)
CHOICE_MS = Quantity("route_p50_ms_n10000", HUNDREDTHS, at_most(2.0))
RIGHT = Quantity("reworded_right_task", PERCENT, REWORDED_AIM)
HARMED = Quantity("harm_share", PERCENT, at_most(0.01))
FILES = ("overhead", "routing", "selection", "harm")


def headline(results: Results) -> Table:
    """Shows what routing costs, how fast and how well it chooses, and how often a choice harms."""
    overhead, routing, selection, harm = (results.of(name) for name in FILES)
    rounds = {name: one["interval_95"] for name, one in overhead.details["rounds"].items()}
    rows = [
        _row("throughput of `auto` over stock vLLM's with the adapter named, 8 clients", overhead, THROUGHPUT, rounds),
        _row("time of a choice among 10,000 learnwares, p50, ms", routing, CHOICE_MS, {}),
        _row("right learnware for a task's request in other words", selection, RIGHT, _intervals(selection)),
        _row("answers of chosen learnwares that are of no use where the base's is", harm, HARMED, _intervals(harm)),
    ]
    source = f"From {', '.join(f'`{name}.json`' for name in FILES)} in `benchmarks/results`, with 95 % intervals."
    return Table(["", "measured", "aim"], rows, source)


def _intervals(result: Result) -> dict[str, Sequence[float]]:
    intervals: dict[str, Sequence[float]] = result.details["intervals_95"]
    return intervals


def _row(title: str, result: Result, quantity: Quantity, intervals: dict[str, Sequence[float]]) -> list[str]:
    value = with_interval(result.figures.get(quantity.figure), intervals.get(quantity.figure), quantity.form)
    return [title, value, result.aims([quantity])]
