"""How surely the rule for canaries promotes and rolls back, and how many answers it takes.

    python -m benchmarks.evaluation [--matrix FILE]

Each line of the table is a canary beside its learnware, known by feedback, right answers or a judge, run many times
with seeds of its own. With a score matrix (`learnware-serving matrix`) what is right is replayed from measured rows:
the learnware of a task against the same adapter with its weight changes negated, itself, and a weaker one. Without one,
and beside it, qualities are drawn: each answer is right with a fixed probability, independently of the other model's.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.scores import TaskScores, read_scores
from benchmarks.common.statistics import share as share_of
from benchmarks.evaluation.canary_runs import MOST_REQUESTS, Known, Models, Outcome, drawn, measured, run
from serving.config_evaluation import CanarySettings
from specs.errors import LearnwareError

RUNS = 100
"""Runs of each line."""
WITHIN = 100
"""Answers of a bad canary within which it should be rolled back."""
CLEARLY = 0.2
"""Difference of measured accuracy from which one adapter is clearly worse: of 16 rows three."""
NEGATED, TOP = "negated_", "top_"
"""Beginnings of the names of adapters with negated weight changes, and of upper layers alone."""

ALL = Known(feedback=1.0)
FIFTH = Known(feedback=0.2)
RIGHT = Known(both=0.2, right_answers=True)
JUDGE = Known(both=0.2, judge_error=0.1)
POOR = Known(both=0.2, judge_error=0.3)
BIASED = Known(both=0.2, judge_error=0.1, judge_bias=0.5)
LIED = Known(feedback=1.0, liar=True)


class Line(NamedTuple):
    """One line of the table: a group that the figures sum over, what is known, the canary's share, and the models of
    each run in turn."""

    group: str
    name: str
    known: Known
    share: float
    models: Sequence[Models]
    most: int = MOST_REQUESTS
    """Requests after which a run ends undecided."""


def lines(matrix: Mapping[str, TaskScores] | None) -> Iterator[Line]:
    """Yields what is run."""
    if matrix is not None:
        bad, equal, better = measured_pairs(matrix)
        for name, models in bad.items():
            yield Line("bad measured", f"negated {name}, all feedback", ALL, 0.05, [models])
        if bad:
            yield Line("bad measured", "negated, judge", JUDGE, 0.05, list(bad.values()))
        yield Line("equal measured", "the same adapter, all feedback", ALL, 0.05, equal)
        yield Line("equal measured", "the same adapter, judge", JUDGE, 0.05, equal)
        if better:
            yield Line("better measured", "in the place of its upper layers, all feedback", ALL, 0.05, better)
    for current, canary in ((0.8, 0.0), (0.8, 0.33), (0.6, 0.25)):
        for name, known in (("all feedback", ALL), ("right answers", RIGHT), ("judge", JUDGE), ("a liar of ten", LIED)):
            line = f"{canary:g} for {current:g}, {name}"
            yield Line("bad" if known != LIED else "bad, a liar", line, known, 0.05, [drawn(current, canary)])
    for quality in (0.5, 0.8, 0.95):
        for name, known, share in (
            ("all feedback", ALL, 0.05),
            ("all feedback, half of the requests", ALL, 0.5),
            ("a fifth of feedback", FIFTH, 0.2),
            ("right answers", RIGHT, 0.05),
            ("judge", JUDGE, 0.05),
            ("poor judge", POOR, 0.05),
            ("judge that likes the first place", BIASED, 0.05),
            ("a liar of ten", LIED, 0.05),
        ):
            group = "equal" if known != LIED else "equal, a liar"
            yield Line(group, f"{quality:g} for {quality:g}, {name}", known, share, [drawn(quality, quality)])
    for name, known in (("all feedback", ALL), ("judge", JUDGE)):
        for current, canary in ((0.6, 0.5), (0.9, 0.8)):
            yield Line(
                "worse by the margin", f"{canary:g} for {current:g}, {name}", known, 0.05, [drawn(current, canary)]
            )
        yield Line("worse by half", f"0.65 for 0.7, {name}", known, 0.05, [drawn(0.7, 0.65)])
        yield Line("better", f"0.8 for 0.7, {name}", known, 0.05, [drawn(0.7, 0.8)])
    yield Line("nothing known", "0 for 0.8, nothing", Known(), 0.05, [drawn(0.8, 0.0)], 4000)


def measured_pairs(
    matrix: Mapping[str, TaskScores],
) -> tuple[dict[str, Models], list[Models], list[Models]]:
    """Returns, from a score matrix, canaries that are clearly worse (a task's learnware with negated weight changes),
    equal (itself) and clearly better (in the place of its upper layers alone)."""
    bad: dict[str, Models] = {}
    equal: list[Models] = []
    better: list[Models] = []
    for task, scores in matrix.items():
        domain, _, name = task.partition("-")
        own = scores.right.get(task)
        if own is None:
            continue
        equal.append(measured(own, own))
        negated, top = (scores.right.get(f"{domain}-{kind}{name}") for kind in (NEGATED, TOP))
        if negated is not None and own.mean() - negated.mean() >= CLEARLY:
            bad[task] = measured(own, negated)
        if top is not None and own.mean() - top.mean() >= CLEARLY:
            better.append(measured(top, own))
    return bad, equal, better


def measure(line: Line, runs: int, settings: CanarySettings, first_seed: int) -> dict[str, Any]:
    """Runs one line; returns how often it ended how, after how many of the canary's answers."""
    ended = [
        run(line.models[number % len(line.models)], line.known, line.share, settings, first_seed + number, line.most)
        for number in range(runs)
    ]
    taken = [one.answers for one in ended if one.action != "wait"]
    return {
        "group": line.group,
        "share": line.share,
        "runs": runs,
        **{name: _share(ended, action) for name, action in _ACTIONS.items()},
        "answers": [float(np.quantile(taken, at)) for at in (0.5, 0.95, 1.0)] if taken else None,
        # a mean: of the few requests until an early end the canary's share may be larger than its own by chance
        "wrong": float(np.mean([one.wrong for one in ended])),
        "wrong_most": max(one.wrong for one in ended),
        "rolled_back_within": sum(one.action == "roll back" and one.answers <= WITHIN for one in ended) / runs,
    }


_ACTIONS = {"promoted": "promote", "rolled_back": "roll back", "undecided": "wait"}


def _share(ended: Sequence[Outcome], action: str) -> dict[str, Any]:
    found = share_of(one.action == action for one in ended)
    return {"share": found.value, "interval": list(found.interval)}


def figures(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Returns the figures: of each group the worst line's."""
    found: dict[str, float] = {}
    for group in dict.fromkeys(row["group"] for row in rows.values()):
        own = [row for row in rows.values() if row["group"] == group]
        key = group.replace(",", "").replace(" ", "_")
        if group.startswith("bad"):
            found[f"{key}_rolled_back_within_{WITHIN}"] = min(row["rolled_back_within"] for row in own)
            found[f"{key}_wrong_of_all"] = max(row["wrong"] for row in own)
        elif group.startswith(("equal", "better")):
            found[f"{key}_promoted"] = min(row["promoted"]["share"] for row in own)
        else:
            found[f"{key}_promoted"] = max(row["promoted"]["share"] for row in own)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--matrix", type=Path, help="score matrix whose rows are replayed")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each line (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run (default: %(default)s)")
    for name, field in CanarySettings.model_fields.items():
        if name != "decide":
            kind = type(field.default)
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=field.default, help=f"canary.{name}")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    try:
        matrix = None if options.matrix is None else read_scores(options.matrix)
    except LearnwareError as error:
        print(f"benchmarks.evaluation: {error}", file=sys.stderr)
        return 1
    settings = CanarySettings(
        least_answers=options.least_answers, most_answers=options.most_answers, margin=options.margin
    )
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines(matrix)):
        rows[line.name] = measure(line, options.runs, settings, options.seed + number * options.runs)
        print(" | ".join(_cells({line.name: rows[line.name]})[0]), file=sys.stderr, flush=True)
    print(
        table(
            ["canary", "promoted", "rolled back", "undecided", "answers: median", "95 %", "most", "wrong"], _cells(rows)
        )
    )
    content = result("evaluation", figures(rows), setup() | {"canary": settings.model_dump()}, {"lines": rows})
    print(table(["figure", "measured"], [[name, f"{value:.3f}"] for name, value in content["figures"].items()]))
    write_result(options, content)
    return 0


def _cells(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            name,
            *(f"{row[kind]['share']:.2f}" for kind in _ACTIONS),
            *(["–"] * 3 if row["answers"] is None else [f"{value:.0f}" for value in row["answers"]]),
            f"{row['wrong']:.3f}",
        ]
        for name, row in rows.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
