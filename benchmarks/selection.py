"""How well requests find their learnware: every test row of the starter learnwares' tasks, whole and bare.

    python -m benchmarks.selection --data DATA                   figures (see `figures` below)
    python -m benchmarks.selection --data DATA --scores FILE     and the scores of base, routed, best single, oracle
    python -m benchmarks.selection --data DATA --tune            margins on train rows, from which the border comes
    python -m benchmarks.selection --data DATA --encoders        encoders against each other in the same pipeline
    python -m benchmarks.selection --data DATA --learnwares FOLDER --matrix FILE --probes FILE
                                                                 a market of many learnwares (`market_selection`);
                                                                 --plots FOLDER draws, --verify measures 1 % again

Bare prompts lose their instruction line and the answer cue, so that only the content speaks. Selectors see train
rows only. Intervals are 95 %, by bootstrap over rows.

`questions_*` are free-form questions of our own: share that is matched to its domain, and share whose nearest
learnware is of its domain. Those named `_later` were written when everything else was fixed; the others were looked
at while examples and everyday prompts were written.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import add_json_option, result, setup, table, write_json
from benchmarks.scores import Scores, evaluate, read_scores
from benchmarks.tasks import (
    CHAT,
    DOMAINS,
    OTHER_CHOICES,
    REPOSITORY,
    add_data_option,
    read_prompts,
    read_questions,
    task_of,
)
from router.choice import LOW_CONFIDENCE, MATCHED
from router.selection import Selector
from router.settings import SelectionSettings
from specs.encoder import STATIC_ENCODER, Encoder, load_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.learnware import Learnware, load_learnwares

BOOTSTRAP = 1000
NEIGHBOURS = 10
SHORT_ROWS = 60
VIEWS = ("whole", "bare")

Matrix = NDArray[np.float32]


class Routed(NamedTuple):
    """What became of some prompts: nearest learnware, choice (None: base) and standard margin of each."""

    nearest: list[str]
    chosen: list[str | None]
    margins: NDArray[np.float64]

    @property
    def to_base(self) -> NDArray[np.float64]:
        return np.array([choice is None for choice in self.chosen], float)


class Outcome(NamedTuple):
    """Figures by name, intervals of them, and tables for the report."""

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    details: dict[str, Any]


def route(selector: Selector, vectors: Matrix) -> Routed:
    choices = [selector.choose_embedded(vector) for vector in vectors]
    margins = np.array([selector.standard_margin(vector) for vector in vectors])
    return Routed(
        [choice.candidates[0].learnware_id for choice in choices], [choice.learnware_id for choice in choices], margins
    )


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def domain_of(learnware_id: str) -> str:
    return learnware_id.split("-", 1)[0]


def measure(
    learnwares: Sequence[Learnware],
    encoder: Encoder,
    data: Path,
    settings: SelectionSettings,
    limit: int | None,
    rules: bool = True,
) -> tuple[Outcome, dict[str, list[str | None]]]:
    """Figures on the test rows (the first `limit` of each task), and the choice for every whole prompt. `rules`: also
    what nearest centroid and nearest prompts reach, which encodes all train rows."""
    selector = Selector(learnwares, encoder, settings)
    ids = [learnware.id for learnware in learnwares]
    values: dict[str, NDArray[np.float64]] = {}
    details: dict[str, Any] = {"rows": {}, "rules": {}, "by_task": {}}
    chosen: dict[str, list[str | None]] = {}
    test = {name: read_prompts(data, task_of(name), "test", limit) for name in ids}
    for view in VIEWS:
        vectors = {name: encoder.encode(getattr(test[name], view)) for name in ids}
        routed = {name: route(selector, vectors[name]) for name in ids}
        truth = [name for name in ids for _ in vectors[name]]
        suffix = "" if view == "whole" else "_bare"
        values |= _accuracies(truth, [near for name in ids for near in routed[name].nearest], suffix)
        picked = [choice for name in ids for choice in routed[name].chosen]
        values[f"task_answered{suffix}"] = np.array(
            [true == one for true, one in zip(truth, picked, strict=True)], float
        )
        values[f"in_domain_to_base{suffix}"] = np.concatenate([routed[name].to_base for name in ids])
        if rules:
            train = {name: encoder.encode(getattr(read_prompts(data, task_of(name), "train"), view)) for name in ids}
            details["rules"][view] = other_rules(train, np.concatenate(list(vectors.values())), truth)
        for name in ids:
            details["by_task"].setdefault(name, {})[view] = {
                "right": float(np.mean([near == name for near in routed[name].nearest])),
                "to_base": float(routed[name].to_base.mean()),
            }
        if view == "whole":
            chosen = {name: routed[name].chosen for name in ids}
    chat = route(selector, encoder.encode(read_prompts(data, CHAT, "test", limit).whole))
    values["ood_to_base_chat"] = chat.to_base
    for view in VIEWS:
        other = [getattr(read_prompts(data, task, "test", limit), view) for task in OTHER_CHOICES]
        name = "ood_to_base_mc" if view == "whole" else "ood_to_base_mc_bare"
        values[name] = np.concatenate([route(selector, encoder.encode(prompts)).to_base for prompts in other])
    for domain, later in [(domain, later) for later in ("", "_later") for domain in DOMAINS]:
        answered = route(selector, encoder.encode(read_questions(f"{domain}{later}")))
        values[f"questions{later}_{domain}"] = np.array(
            [c is not None and domain_of(c) == domain for c in answered.chosen], float
        )
        values[f"questions{later}_{domain}_nearest"] = np.array(
            [domain_of(near) == domain for near in answered.nearest], float
        )
    for later in ("", "_later"):
        everyday = encoder.encode(read_questions(f"general{later}"))
        values[f"questions{later}_general_to_base"] = route(selector, everyday).to_base
    details["rows"] = {name: len(rows) for name, rows in values.items()}
    figures = {name: float(rows.mean()) for name, rows in values.items()}
    return Outcome(figures, {name: interval(rows) for name, rows in values.items()}, details), chosen


def _accuracies(truth: Sequence[str], found: Sequence[str], suffix: str) -> dict[str, NDArray[np.float64]]:
    pairs = list(zip(truth, found, strict=True))
    return {
        f"task_accuracy{suffix}": np.array([true == near for true, near in pairs], float),
        f"domain_accuracy{suffix}": np.array([domain_of(true) == domain_of(near) for true, near in pairs], float),
    }


def other_rules(train: dict[str, Matrix], test: Matrix, truth: Sequence[str]) -> dict[str, dict[str, float]]:
    """Nearest centroid and k nearest prompts on the same vectors, fitted on the train rows of the same view."""
    ids = list(train)
    centroids = np.stack([rows.mean(0) / np.linalg.norm(rows.mean(0)) for rows in train.values()])
    owners = np.repeat(np.arange(len(ids)), [len(rows) for rows in train.values()])
    stacked = np.concatenate(list(train.values()))
    by_centroid = [ids[i] for i in (test @ centroids.T).argmax(1)]
    by_neighbours = []
    for start in range(0, len(test), 500):
        similar = test[start : start + 500] @ stacked.T
        nearest = np.argpartition(-similar, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        by_neighbours += [ids[np.bincount(owners[row], minlength=len(ids)).argmax()] for row in nearest]
    return {
        rule: {name: float(rows.mean()) for name, rows in _accuracies(truth, found, "").items()}
        for rule, found in (("nearest centroid", by_centroid), (f"{NEIGHBOURS} nearest prompts", by_neighbours))
    }


def tune(learnwares: Sequence[Learnware], encoder: Encoder, data: Path, settings: SelectionSettings) -> None:
    """Standard margins on TRAIN rows: what the default border was read from."""
    selector = Selector(learnwares, encoder, settings)
    chat = route(selector, encoder.encode(read_prompts(data, CHAT, "train").whole)).margins
    other = [route(selector, encoder.encode(read_prompts(data, task, "train").whole)).margins for task in OTHER_CHOICES]
    own: dict[str, list[NDArray[np.float64]]] = {view: [] for view in VIEWS}
    for learnware in learnwares:
        prompts = read_prompts(data, task_of(learnware.id), "train")
        for view in VIEWS:
            own[view].append(route(selector, encoder.encode(getattr(prompts, view))).margins)
    rows = []
    for border in np.arange(1.0, 2.6, 0.25):
        below = [chat, np.concatenate(other), np.concatenate(own["whole"]), np.concatenate(own["bare"])]
        rows.append([f"{border:.2f}", *(f"{100 * float(np.mean(margins < border)):.1f}" for margins in below)])
    print("Share (%) of TRAIN rows that would go to the base model, by border:\n")
    print(table(["border", "general_chat", "other multiple choice", "in-domain whole", "in-domain bare"], rows))


def report(outcome: Outcome, scores: Scores | None) -> None:
    lines = [
        [
            name,
            f"{100 * value:.2f}",
            f"{100 * outcome.intervals[name][0]:.1f} to {100 * outcome.intervals[name][1]:.1f}",
        ]
        for name, value in outcome.figures.items()
        if name in outcome.intervals
    ]
    print(table(["figure (%)", "value", "95 % interval"], lines), end="\n\n")
    rules = [
        [f"{rule}, {view}", f"{100 * found['task_accuracy']:.2f}", f"{100 * found['domain_accuracy']:.2f}"]
        for view, by_rule in outcome.details["rules"].items()
        for rule, found in by_rule.items()
    ]
    print(table(["other rules, same encoder (%)", "task", "domain"], rules), end="\n\n")
    tasks = [
        [name, *(f"{100 * value:.1f}" for view in VIEWS for value in (found[view]["right"], found[view]["to_base"]))]
        for name, found in outcome.details["by_task"].items()
    ]
    print(table(["learnware (%)", "whole: right", "to base", "bare: right", "to base"], tasks), end="\n\n")
    if scores is None:
        print("No score matrix was given (--scores): no score_vs_oracle.")
        return
    kinds = ("base", "best_single", "routed", "oracle")
    rows = [[task, *(f"{100 * found[kind]:.1f}" for kind in kinds)] for task, found in scores.by_task.items()]
    rows.append(["mean", *(f"{100 * getattr(scores, kind):.1f}" for kind in kinds)])
    print(table(["accuracy (%)", "base", f"best single ({scores.best_single_id})", "routed", "oracle"], rows))


def out_of_domain(selector: Selector, encoder: Encoder, data: Path, limit: int | None) -> dict[str, float]:
    """Shares of prompts of no learnware's domain that go to the base model."""
    chat = route(selector, encoder.encode(read_prompts(data, CHAT, "test", limit).whole)).to_base
    other = [read_prompts(data, task, "test", limit).whole for task in OTHER_CHOICES]
    choices = np.concatenate([route(selector, encoder.encode(prompts)).to_base for prompts in other])
    return {"ood_to_base_chat": float(chat.mean()), "ood_to_base_mc": float(choices.mean())}


def _market(
    options: argparse.Namespace, learnwares: Sequence[Learnware], encoder: Encoder, settings: SelectionSettings
) -> int:
    from benchmarks import market_figures, market_selection
    from benchmarks.rule_inputs import read_inputs

    if options.probes is None:
        raise InvalidInput("--matrix goes with --probes: what learnwares are ranked by must not be their test rows")
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
        from benchmarks.market_plots import write_plots

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
    write_json(options.json, result("market_selection", flat, conditions, details))
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


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument("--scores", type=Path, help="score matrix, from `learnware-serving matrix`")
    parser.add_argument("--matrix", type=Path, help="score matrix of a market of many learnwares")
    parser.add_argument("--probes", type=Path, help="what it is ranked by, from `learnware-serving matrix --probes`")
    parser.add_argument(
        "--rule-inputs",
        type=Path,
        help="from `benchmarks.rule_inputs`, for the rules that need more than specifications",
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="with --matrix: also draw plots, as SVG")
    parser.add_argument(
        "--verify", action="store_true", help="with --matrix: measure 1 %% of the cells again; fails on disagreement"
    )
    parser.add_argument("--tune", action="store_true", help="only print the margins on train rows")
    parser.add_argument("--encoders", action="store_true", help="only compare encoders")
    parser.add_argument("--short", action="store_true", help=f"the first {SHORT_ROWS} test rows of each task only")
    add_json_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.data is None:
        print("benchmarks.selection needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    try:
        learnwares = load_learnwares(options.learnwares)
        encoder = load_encoder(STATIC_ENCODER)
        settings = SelectionSettings()
        if options.encoders:
            from benchmarks.encoders import compare

            write_json(options.json, compare(learnwares, options.data, settings))
            return 0
        if options.matrix is not None:
            return _market(options, learnwares, encoder, settings)
        if options.tune:
            tune(learnwares, encoder, options.data, settings)
            return 0
        limit = SHORT_ROWS if options.short else None
        outcome, chosen = measure(learnwares, encoder, options.data, settings, limit)
        scores = None
        if options.scores is not None:
            full = (
                chosen if limit is None else measure(learnwares, encoder, options.data, settings, None, rules=False)[1]
            )
            scores = evaluate(read_scores(options.scores), full)
            outcome.figures["score_vs_oracle"] = scores.routed / scores.oracle
            outcome.details["scores"] = scores._asdict()
    except LearnwareError as error:
        print(f"benchmarks.selection: {error}", file=sys.stderr)
        return 1
    report(outcome, scores)
    details = outcome.details | {"intervals_95": outcome.intervals}
    conditions = setup() | {
        "encoder": encoder.id,
        "learnwares": [learnware.id for learnware in learnwares],
        "settings": settings.model_dump(mode="json"),
        "test_rows_a_task": limit or "all",
    }
    write_json(options.json, result("selection", outcome.figures, conditions, details))
    return 0


if __name__ == "__main__":
    sys.exit(main())
