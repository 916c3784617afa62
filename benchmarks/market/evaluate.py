"""Compares rules that choose from a market of many learnwares.

    python -m benchmarks.market --data DATA --learnwares FOLDER --matrix FILE --probes FILE
                                [--rule-inputs FOLDER] [--plots FOLDER] [--verify] [--json FILE]

`benchmarks.market.choices` says what the columns are; `benchmarks.market.population` makes the learnwares.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.report import add_output_options, result, setup, write_result
from benchmarks.common.scores import read_scores
from benchmarks.common.tasks import CHAT, OTHER_CHOICES, REPOSITORY, add_data_option, read_prompts
from benchmarks.market import choices as market_selection, figures as market_figures
from benchmarks.market.rule_inputs import read_inputs
from router.choice import LOW_CONFIDENCE, MATCHED
from router.selection import Selector
from router.settings import SelectionSettings
from specs.encoding.encoder import Encoder, load_prompt_encoder
from specs.errors import LearnwareError
from specs.learnware import Learnware, load_learnwares

SHORT_ROWS = 60


def out_of_domain(selector: Selector, encoder: Encoder, data: Path, limit: int | None) -> dict[str, float]:
    """Returns the shares of prompts of no learnware's domain that go to the base model."""

    def to_base(task: str) -> list[bool]:
        vectors = encoder.encode(read_prompts(data, task, "test", limit).whole)
        return [selector.choose_embedded(vector).learnware_id is None for vector in vectors]

    others = [one for task in OTHER_CHOICES for one in to_base(task)]
    return {"ood_to_base_chat": float(np.mean(to_base(CHAT))), "ood_to_base_mc": float(np.mean(others))}


def run(
    options: argparse.Namespace, learnwares: Sequence[Learnware], encoder: Encoder, settings: SelectionSettings
) -> int:
    market = market_selection.make_market(learnwares, read_scores(options.matrix), read_scores(options.probes))
    texts = market_selection.encode_tasks(market, options.data, encoder)
    inputs = None if options.rule_inputs is None else read_inputs(options.rule_inputs)
    found = market_selection.measure(market, texts, encoder, settings, inputs)
    at = {
        size: market_selection.routed_at(market, texts, encoder, settings, size)
        for size in ((1000,) if options.short else (10, 1000, 10000))
    }
    figures = market_figures.figures(market, found, at)
    selector = Selector(market.learnwares, encoder, settings)
    flat = figures.flat
    flat |= out_of_domain(selector, encoder, options.data, SHORT_ROWS if options.short else None)
    inside = [selector.choose_embedded(vector).reason for one in texts.values() for vector in one.test["whole"]]
    flat["in_domain_to_base"] = float(np.mean([reason != MATCHED for reason in inside]))
    # of which not because the base model was measured to answer better
    flat["in_domain_low_confidence"] = float(np.mean([reason == LOW_CONFIDENCE for reason in inside]))
    print(market_figures.tables(market, found, figures))
    if options.plots is not None:
        from benchmarks.market.plots import write_plots

        print("written:", *write_plots(options.plots, market, found, at))
    conditions = setup() | {
        "encoder": encoder.id,
        "learnwares": [learnware.id for learnware in market.learnwares],
        "settings": settings.model_dump(mode="json"),
        "tasks": {task: len(scores.rows) for task, scores in market.matrix.items()},
        "probe_rows": {task: len(scores.rows) for task, scores in market.probes.items()},
    }
    details = figures.details | {
        "intervals_95": figures.intervals,
        "recoveries": {name: one._asdict() for name, one in figures.recoveries.items()},
        "unmeasured_choices": found.unmeasured,
        "calibration": market_figures.calibration(found.confidence)[1],
        "by_task": {
            task: {column: float(values.mean()) for column, values in one.right.items()}
            for task, one in found.columns.items()
        },
    }
    write_result(options, result("market_selection", flat, conditions, details))
    return verify(options) if options.verify else 0


def verify(options: argparse.Namespace) -> int:
    """Measures 1 % of the cells of both files again; the status is not 0 when some disagree."""
    status = 0
    for file, extra in ((options.matrix, []), (options.probes, ["--probes"])):
        with tempfile.TemporaryDirectory() as place:
            command = [sys.executable, "-m", "serving.cli", "matrix", "--data", options.data, "--verify", file]
            command += ["--learnwares", options.learnwares, "--out", place, *extra]
            status |= subprocess.run(list(map(str, command)), cwd=REPOSITORY, check=False).returncode
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.market", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument("--matrix", type=Path, required=True, help="score matrix on test rows")
    parser.add_argument(
        "--probes",
        type=Path,
        required=True,
        help="what learnwares are ranked by, from `learnware-serving matrix --probes`: never their test rows",
    )
    parser.add_argument(
        "--rule-inputs",
        type=Path,
        help="from `benchmarks.market.rule_inputs`, for the rules that need more than specifications",
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also draw plots, as SVG")
    parser.add_argument("--verify", action="store_true", help="measure 1 %% of the cells again; fails on disagreement")
    parser.add_argument("--short", action="store_true", help="fewer sizes of market, and fewer prompts off the domains")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    if options.data is None:
        print("benchmarks.market needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    try:
        return run(options, load_learnwares(options.learnwares), load_prompt_encoder(), SelectionSettings())
    except LearnwareError as error:
        print(f"benchmarks.market: {error}", file=sys.stderr)
        return 1
