"""Reports and tables of scores: each learnware beside the base, the majority answer and the shuffled-answers
control."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from serving.training.rows import Row
from serving.training.scoring import RowScore
from serving.training.statistics import Estimate, compare, estimate

DIGITS = 4
"""Digits after the point in a report."""
CONTROLS = ("base", "majority", "shuffled")
"""The controls with which a learnware is compared."""
NORMAL = 1.96
"""Standard errors in half of a 95 % interval of the normal distribution."""


def majority_scores(train: Sequence[Row], test: Sequence[Row]) -> list[RowScore]:
    """Scores the control that never reads the prompt: it gives each answer its frequency among the train rows (one
    added to each count, so that none is impossible), hence always chooses the most frequent one."""
    counts = Counter(row.answer for row in train)
    most_frequent = counts.most_common(1)[0][0]
    scored = []
    for row in test:
        candidates = row.candidates()
        if not candidates:
            share = (counts[row.answer] + 1) / (len(train) + len(counts) + 1)
            scored.append(RowScore((round(math.log(share), 5),), 0, greedy=row.answer == most_frequent))
            continue
        total = sum(counts[answer] + 1 for answer in candidates)
        scores = tuple(round(math.log((counts[answer] + 1) / total), 5) for answer in candidates)
        scored.append(RowScore(scores, candidates.index(row.answer), greedy=False))
    return scored


def task_report(systems: Mapping[str, Sequence[RowScore]]) -> dict[str, Any]:
    """Reports each system's accuracy and mean log-likelihood of the gold answer with 95 % intervals, and "learnware"
    against every control that is there. `beats_all_controls` says that its accuracy is better at 95 % than that of each
    of base, majority and shuffled; it is None while one of them is missing."""
    report: dict[str, Any] = {"rows": len(next(iter(systems.values()))), "systems": {}, "against": {}}
    for name, scores in systems.items():
        report["systems"][name] = {
            "accuracy": _rounded(estimate([float(score.right) for score in scores])),
            "gold_log_likelihood": _rounded(estimate([score.gold_log_likelihood for score in scores])),
        }
    if "learnware" not in systems:
        return report
    learnware = [score.right for score in systems["learnware"]]
    for name in CONTROLS:
        if name in systems:
            comparison = compare(learnware, [score.right for score in systems[name]])
            report["against"][name] = {
                "difference": _rounded(comparison.difference),
                "mcnemar_p": float(f"{comparison.p:.2g}"),
                "better": comparison.better,
            }
    complete = all(name in report["against"] for name in CONTROLS)
    report["beats_all_controls"] = all(item["better"] for item in report["against"].values()) if complete else None
    return report


def with_earlier_control(report: Mapping[str, Any], control: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a report a shuffled control of which only the means of an earlier report on the same rows are left.
    Without its rows the comparison is not paired: the interval is that of two independent shares, which is wider."""
    own, other, rows = report["systems"]["learnware"]["accuracy"]["mean"], control["accuracy"]["mean"], report["rows"]
    spread = NORMAL * math.sqrt((own * (1 - own) + other * (1 - other)) / rows)
    difference = Estimate(own - other, own - other - spread, own - other + spread)
    against = {"difference": _rounded(difference), "paired": False, "better": difference.low > 0}
    added = dict(report) | {
        "systems": report["systems"] | {"shuffled": dict(control)},
        "against": report["against"] | {"shuffled": against},
    }
    added["beats_all_controls"] = all(name in added["against"] for name in CONTROLS) and all(
        item["better"] for item in added["against"].values()
    )
    return added


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the reports as a Markdown table, one line a task. The column `log p(gold)` has the base's value and,
    after the arrow, the learnware's; `steps` those of the learnware and of its shuffled control."""
    lines = [
        "| learnware | rows | base | majority | shuffled | learnware (95 %) | log p(gold) | steps | beats all |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, report in reports.items():
        systems = report["systems"]
        cells = [_percent(systems[name]["accuracy"]["mean"]) if name in systems else "–" for name in CONTROLS]
        own = systems.get("learnware")
        verdict = {True: "yes", False: "**no**", None: "–"}[report.get("beats_all_controls")]
        if own:
            accuracy = own["accuracy"]
            interval = f"**{_percent(accuracy['mean'])}** ({_percent(accuracy['low'])}–{_percent(accuracy['high'])})"
            before = systems["base"]["gold_log_likelihood"]["mean"] if "base" in systems else math.nan
            likelihood = f"{before:.2f} → {own['gold_log_likelihood']['mean']:.2f}"
        else:
            interval = likelihood = "–"
        training = report.get("training", {})
        steps = " / ".join(str(training.get(name, {}).get("steps", "–")) for name in ("learnware", "shuffled"))
        row = [f"`{task}`", str(report["rows"]), *cells, interval, likelihood, steps, verdict]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _rounded(value: Any) -> dict[str, float]:
    return {name: round(number, DIGITS) for name, number in value._asdict().items()}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
