"""The table of four figures on the project's first page."""

from collections.abc import Sequence

from benchmarks.tables.cells import HUNDREDTHS, PERCENT, SIGNED_TENTHS, Quantity, Result, Results, Table, with_interval
from benchmarks.tables.choice_tables import REWORDED_AIM, TASK_AIM
from benchmarks.tables.engine_tables import PAGING_THROUGHPUT_AIM, THROUGHPUT_AIM, TTFT_ADDED_AIM, paging_intervals

OVERHEAD = (
    Quantity("throughput_ratio_c8", HUNDREDTHS, THROUGHPUT_AIM),
    Quantity("ttft_added_ms_c1", SIGNED_TENTHS, TTFT_ADDED_AIM),
)
CHOICE_TIME = Quantity("route_p50_ms_n100"), Quantity("route_p50_ms_n10000")
RIGHT = Quantity("task_accuracy", PERCENT, TASK_AIM), Quantity("reworded_right_task", PERCENT, REWORDED_AIM)
HARMED = (Quantity("harm_share", PERCENT),)
PAGING = (Quantity("throughput_ratio_s8", HUNDREDTHS, PAGING_THROUGHPUT_AIM),)
FILES = ("overhead", "routing", "selection", "harm", "paging")


def headline(results: Results) -> Table:
    """Shows what routing costs, how fast and how well it chooses, and what paging gains."""
    overhead, routing, selection, harm, paging = (results.of(name) for name in FILES)
    rounds = overhead.details["rounds"]
    rows = [
        [
            "beside stock vLLM with the adapter named: throughput with 8 clients, ratio / TTFT added with one, ms",
            _values(overhead, OVERHEAD, {name: one["interval_95"] for name, one in rounds.items()}),
            overhead.aims(OVERHEAD),
        ],
        ["time of a choice, p50, among 100 / 10,000 learnwares, ms", _values(routing, CHOICE_TIME, {}), ""],
        [
            "right learnware for prompts as they are / in other words; harmed answers among those of learnwares",
            f"{_of(selection, RIGHT)}; {_of(harm, HARMED)}",
            selection.aims(RIGHT),
        ],
        [
            "100 adapters over 8 slots: throughput at saturation over stock vLLM's",
            _values(paging, PAGING, paging_intervals(paging)),
            paging.aims(PAGING),
        ],
    ]
    source = f"From {', '.join(f'`{name}.json`' for name in FILES)} in `benchmarks/results`, with 95 % intervals."
    return Table(["", "measured", "aim"], rows, source)


def _of(result: Result, quantities: Sequence[Quantity]) -> str:
    return _values(result, quantities, result.details["intervals_95"])


def _values(result: Result, quantities: Sequence[Quantity], intervals: dict[str, Sequence[float]]) -> str:
    return " / ".join(
        with_interval(result.figures.get(one.figure), intervals.get(one.figure), one.form) for one in quantities
    )
