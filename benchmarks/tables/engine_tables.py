"""Tables of the engine's benchmarks: overhead, paging, operators, affinity and simulation."""

import re
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from benchmarks.common import statistics
from benchmarks.tables.cells import (
    FINE,
    HUNDREDTHS,
    NOT_MEASURED,
    SIGNED_TENTHS,
    TENTHS,
    WHOLE,
    Aim,
    Form,
    Quantity,
    Result,
    Results,
    Table,
    at_least,
    at_most,
    interval,
    text,
    with_interval,
)

Interval = Sequence[float]

THROUGHPUT_AIM, TTFT_ADDED_AIM = at_least(0.97), at_most(12.0)
PAGING_THROUGHPUT_AIM = at_least(1.20)
OVERHEAD_ROUNDS: Sequence[tuple[str, str, Form, Form, Aim | None]] = (
    ("output tokens/s, 8 clients", "throughput_ratio_c8", TENTHS, HUNDREDTHS, THROUGHPUT_AIM),
    ("TTFT p50, 8 clients, ms", "ttft_p50_ratio_c8", WHOLE, HUNDREDTHS, at_most(1.10)),
    ("TPOT p50, 8 clients, ms", "tpot_p50_ratio_c8", WHOLE, HUNDREDTHS, None),
    ("TTFT p50, one client, ms (difference)", "ttft_added_ms_c1", TENTHS, SIGNED_TENTHS, TTFT_ADDED_AIM),
    ("output tokens/s, one client", "throughput_ratio_c1", TENTHS, HUNDREDTHS, None),
    ("CPU ms per output token, 8 clients", "cpu_per_token_ratio_c8", TENTHS, HUNDREDTHS, None),
)
"""Title, figure, how the two sides and how their ratio are written, aim of the ratio."""
OVERHEAD_ALONE = (
    ("start to first answer, s", Quantity("start_to_first_answer_s", WHOLE, at_most(100))),
    ("peak memory of the stack, GB", Quantity("peak_memory_gb", TENTHS, at_most(6))),
)


def overhead(results: Results) -> Table:
    """Compares this stack with `auto` to the stock server with the adapter named."""
    result = results.of("overhead")
    rows = [_overhead_row(result, *one) for one in OVERHEAD_ROUNDS]
    rows += [[title, result.values([one]), "", "", result.aims([one])] for title, one in OVERHEAD_ALONE]
    return Table(
        ["", "`auto`, this stack", "stock, adapter named", "ratio or difference (95 %)", "aim"], rows, result.source
    )


def _overhead_row(result: Result, title: str, figure: str, side: Form, ratio: Form, aim: Aim | None) -> list[str]:
    rounds = result.details["rounds"].get(figure)
    value = result.figures.get(figure)
    sides = [text(median(rounds[one]) if rounds else None, side) for one in ("ours", "stock")]
    spread = with_interval(value, rounds and rounds["interval_95"], ratio)
    return [title, *sides, spread, aim.text(value, ratio) if aim else ""]


# -- paging

MAIN_CELL = "n100-s8-a1-cv1-h100"
PAGING: Sequence[tuple[str, Sequence[Quantity], Sequence[Quantity]]] = (
    (
        "cold start, room for 30 adapters: loads over loads needed",
        [Quantity("loads_over_needed", HUNDREDTHS, at_most(1.00))],
        [Quantity("loads_over_needed_stock")],
    ),
    ("the same, ratio", [Quantity("loads_per_request_ratio", HUNDREDTHS, at_most(0.60))], []),
    (
        "disk reads inside engine steps there",
        [Quantity("disk_reads_in_step", WHOLE, at_most(0))],
        [Quantity("disk_reads_in_step_stock", WHOLE)],
    ),
    ("its lowest cell", [Quantity("throughput_ratio_min", HUNDREDTHS, at_least(0.98))], []),
    (
        "the main cell (8 slots, α = 1, cv = 1)",
        [Quantity("throughput_ratio_s8", HUNDREDTHS, PAGING_THROUGHPUT_AIM)],
        [],
    ),
    (
        "the main cell, stock with its own operators",
        [Quantity("throughput_ratio_s8_stock_ops", HUNDREDTHS, at_least(2.00))],
        [],
    ),
    (
        "p99 TTFT at 90 % of stock's saturation rate, ratio",
        [Quantity("ttft_p99_ratio_s8", HUNDREDTHS, at_most(0.60))],
        [],
    ),
    (
        "requests a second within 5 s to the first token and 0.5 s for each further one, there",
        [Quantity("goodput")],
        [Quantity("goodput_stock")],
    ),
    (
        "8 adapters always busy: p99 wait of others over that of all",
        [Quantity("cold_wait_ratio", HUNDREDTHS, at_most(3))],
        [Quantity("cold_wait_ratio_stock")],
    ),
    (
        "p99 gap between tokens while cold adapters come, over the same prefills without",
        [Quantity("token_gap_ratio", HUNDREDTHS, at_most(1.20))],
        [Quantity("token_gap_ratio_stock")],
    ),
    (
        "one adapter over base, decode / prefill, 8 clients",
        [
            Quantity("lora_over_base_1", HUNDREDTHS, at_least(0.75)),
            Quantity("lora_over_base_1_prefill", HUNDREDTHS, at_least(0.75)),
        ],
        [],
    ),
    (
        "eight adapters over base, decode / prefill, 8 clients",
        [
            Quantity("lora_over_base_8", HUNDREDTHS, at_least(0.75)),
            Quantity("lora_over_base_8_prefill", HUNDREDTHS, at_least(0.75)),
        ],
        [],
    ),
    (
        "throughput without the queue / residents first / reading ahead / the slot writer, over with all",
        [
            Quantity("throughput_over_ours_without_the_queue"),
            Quantity("throughput_over_ours_without_residents_first"),
            Quantity("throughput_over_ours_without_reading_ahead"),
            Quantity("throughput_over_ours_without_the_slot_writer"),
        ],
        [],
    ),
    (
        "throughput with 1,000 adapters over that with 5, 48 slots",
        [Quantity("n1000_over_n5", HUNDREDTHS, at_least(0.90))],
        [],
    ),
    ("the same, 8 slots", [Quantity("n1000_over_n5_s8", HUNDREDTHS, at_least(0.90))], []),
)
"""Title, quantities of this stack, the same of stock."""


def paging(results: Results) -> Table:
    """Compares adapter paging to stock vLLM's."""
    result = results.of("paging")
    known = paging_intervals(result)
    rows = [
        [title, result.values(ours), _spread(ours, known), result.values(stock), result.aims(ours)]
        for title, ours, stock in PAGING
    ]
    rows[3:3] = [_loads_at_saturation(result), _grid_median(result)]
    rows[1:1] = [_loads_at_cold_start(result)]
    return Table(["", "this stack", "95 %", "stock", "aim"], rows, result.source)


def _spread(quantities: Sequence[Quantity], known: Mapping[str, Interval]) -> str:
    figure, form, _ = quantities[0]
    return interval(known[figure], form) if figure in known else ""


def paging_intervals(result: Result) -> dict[str, Interval]:
    """Returns the 95 % intervals of the ratios between rounds, by figure."""
    details = result.details
    cells = {"throughput_ratio_s8": MAIN_CELL, "throughput_ratio_s8_stock_ops": "plain"}
    grid = _grid(result)
    cells["throughput_ratio_min"] = min(grid, key=lambda name: median(grid[name]["throughput_ratio"]))
    found = {
        figure: details["cells"][name]["interval_95"] for figure, name in cells.items() if name in details["cells"]
    }
    if "rate" in details:
        found["ttft_p99_ratio_s8"] = _ratio_interval(details["rate"]["rounds"], "ours", "stock", "ttft_p99")
    for figure, name in (("n1000_over_n5", "many-s48"), ("n1000_over_n5_s8", "many")):
        if name in details:
            found[figure] = _ratio_interval(details[name], "1000", "5", "throughput")
    return found


def _ratio_interval(rounds: Mapping[str, Sequence[Mapping[str, float]]], over: str, under: str, key: str) -> Interval:
    pairs = zip(rounds[over], rounds[under], strict=True)
    return statistics.interval([above[key] / below[key] for above, below in pairs])


def _grid(result: Result) -> dict[str, Any]:
    """Returns the cells that compare this stack to stock with this project's operators."""
    return {name: cell for name, cell in result.details["cells"].items() if "stock" in cell["rounds"]}


def _grid_median(result: Result) -> list[str]:
    ratios = [median(cell["throughput_ratio"]) for cell in _grid(result).values()]
    return [
        f"throughput at saturation, ratio, median of the grid's {len(ratios)} cells",
        text(median(ratios)),
        "",
        "",
        "",
    ]


def _loads_at_cold_start(result: Result) -> list[str]:
    sides = [result.details["cold-start"][side] for side in ("ours", "stock")]
    requests = round(sides[0]["loads"] / sides[0]["loads_per_request"])
    return [f"loads there, of {requests} requests", f"{sides[0]['loads']}", "", f"{sides[1]['loads']}", ""]


def _loads_at_saturation(result: Result) -> list[str]:
    rounds = result.details["cells"][MAIN_CELL]["rounds"]
    ours, stock = (mean(one["loads_per_request"] for one in rounds[side]) for side in ("ours", "stock"))
    return ["loads per request at saturation", text(ours), "", text(stock), ""]


def paging_grid(results: Results) -> Table:
    """Shows throughput and loads of every cell of the paging grid."""
    result = results.of("paging")
    rows = [_grid_row(cell) for _, cell in sorted(_grid(result).items(), key=lambda pair: _setting(pair[1]["cell"]))]
    header = ["adapters", "slots", "α", "cv", "this stack, tokens/s", "stock, tokens/s", "ratio (95 %)"]
    return Table([*header, "loads per request, this stack / stock"], rows, result.source)


def _setting(cell: dict[str, Any]) -> tuple[float, ...]:
    return -cell["adapters"], cell["slots"], -cell["alpha"], cell["cv"]


def _grid_row(cell: dict[str, Any]) -> list[str]:
    sides = [cell["rounds"][side] for side in ("ours", "stock")]
    loads = " / ".join(text(mean(one["loads_per_request"] for one in side)) for side in sides)
    setting = cell["cell"]
    return [
        *(f"{setting[key]:g}" for key in ("adapters", "slots", "alpha", "cv")),
        *(f"{median(one['throughput'] for one in side):.1f}" for side in sides),
        with_interval(median(cell["throughput_ratio"]), cell["interval_95"]),
        loads,
    ]


# -- operators, affinity, simulation

BATCHES = (
    ("decode, 1 row", "decode_1"),
    ("decode, 8 rows, one adapter", "decode_8_one_adapter"),
    ("decode, 8 rows, 8 adapters", "decode_8_mixed"),
    ("decode, 8 rows, half of them without an adapter", "decode_8_half_base"),
    ("prefill, 128 tokens, one adapter", "prefill_128_one_adapter"),
    ("prefill, 128 tokens, 4 adapters", "prefill_128_mixed"),
    ("prefill, 128 tokens, 8 adapters", "prefill_128_short"),
)


def lora_ops(results: Results) -> Table:
    """Compares the LoRA operators' throughput to the base matrices' alone. The brackets hold the rounds' range."""
    result = results.of("lora_ops")
    rows = [
        [title, *(_operators(result, f"{side}_over_base_{batch}") for side in ("stock", "ours"))]
        for title, batch in BATCHES
    ]
    return Table(["batch", "throughput over base, vLLM's operators", "ours"], rows, result.source)


def _operators(result: Result, figure: str) -> str:
    return with_interval(result.figures.get(figure), result.details.get(figure))


AFFINITY = (
    ("adapter loads per request, ratio to random replicas (16 learnwares)", [Quantity("affinity_loads_ratio")]),
    ("the same, 100 learnwares", [Quantity("affinity_loads_ratio_n100")]),
    ("p99 TTFT, ratio to random replicas (16 learnwares)", [Quantity("affinity_ttft_p99_ratio")]),
    ("the same, 100 learnwares", [Quantity("affinity_ttft_p99_ratio_n100")]),
    ("rows no longer answered by a learnware of their own task, share", [Quantity("affinity_score_loss", FINE)]),
)


def affinity(results: Results) -> Table:
    """Shows what choosing the replica by learnware saves and costs."""
    result = results.of("affinity")
    rows = [[title, result.values(quantities), result.aims(quantities)] for title, quantities in AFFINITY]
    margin = at_most(result.figures["resident_margin"])
    given_up = result.figures.get("affinity_quality_loss_max")
    rows.append(
        [
            "most expected quality given up for a resident adapter",
            text(given_up, FINE),
            margin.text(given_up, HUNDREDTHS),
        ]
    )
    return Table(["", "measured", "aim"], rows, result.source)


WORKLOADS = (("chat", "chat"), ("chat, α 0.3", "chat_alpha_0.3"), ("long answers", "long_answers"))
SCALE_FIGURE = re.compile(r"ttft_p99_r(\d+)_n(\d+)")


def simulate(results: Results) -> Table:
    """Shows the best number of slots for each simulated workload."""
    result = results.of("simulate")
    rows = [
        [title, result.cell(f"slots_{name}", WHOLE), result.cell(f"shipped_over_best_{name}", HUNDREDTHS)]
        for title, name in WORKLOADS
    ]
    return Table(
        ["simulated: 100 adapters, 8B model, one H100", "best number of slots", "goodput of 48 slots over the best"],
        rows,
        result.source,
    )


def simulate_scale(results: Results) -> Table:
    """Shows simulated TTFT and reads from disk by the numbers of replicas and of learnwares."""
    result = results.of("simulate")
    sizes = [(int(found[1]), int(found[2])) for name in result.figures if (found := SCALE_FIGURE.fullmatch(name))]
    replicas, learnwares = (sorted(set(column)) for column in zip(*sizes, strict=True))
    rows = [[f"{count}", *(_scale_cell(result, count, n) for n in learnwares)] for count in replicas]
    header = ["replicas: TTFT p99, s / reads per request", *(f"{n:,} learnwares" for n in learnwares)]
    return Table(header, rows, result.source)


def _scale_cell(result: Result, replicas: int, learnwares: int) -> str:
    place = f"r{replicas}_n{learnwares}"
    return f"{result.cell(f'ttft_p99_{place}', HUNDREDTHS)} / {result.cell(f'reads_per_request_{place}', HUNDREDTHS)}"


def simulate_limits(results: Results) -> Table:
    """Shows which part gives out first."""
    result = results.of("simulate")
    rows = [
        [one.get(key, NOT_MEASURED) for key in ("part", "reached", "because", "effect")]
        for one in result.details["limits"]
    ]
    return Table(["part", "reaches its limit at", "because", "effect"], rows, result.source, is_text=True)
