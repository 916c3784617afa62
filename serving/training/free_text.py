"""Scores of answers in sentences: the gold answer's log-likelihood a token, and its overlap with what is said.

A sentence is never said exactly, so there is nothing to be right or wrong: each row has the mean log-likelihood of its
gold answer's tokens (the end of turn left out, as with labels), and what greedy decoding says to it is compared with
the gold answer by ROUGE-L (the F-measure of the longest common subsequence of words). Where the gold answers end with a
number (worked solutions), it is counted how often the last number said is that one.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serving.training.scoring import RowScore
from serving.training.statistics import Estimate, compare, estimate
from specs.answers.description import MOSTLY
from specs.errors import StartupError

DIGITS = 4
"""Digits after the point in a report."""
CONTROLS = ("base", "shuffled")
"""The controls of a task in sentences; the majority answer is none there."""
SAME_NUMBER = 1e-6
"""Relative difference up to which two numbers count as one: 58 and 58.0 are the same."""

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?"
_LAST = re.compile(rf"({_NUMBER})[^\w\d]*$")


class Said(NamedTuple):
    """One system on a task: the scores of all rows, and its answers to the first of them."""

    scores: Sequence[RowScore]
    texts: Sequence[str]


def text_report(systems: Mapping[str, Said], gold: Sequence[str]) -> dict[str, Any]:
    """Reports the log-likelihood a token, ROUGE-L and, where the gold answers end with a number, the accuracy of the
    final number of each system with 95 % intervals, and the differences of "learnware" to every control that is there,
    paired by row.

    `gold` are the answers in the rows' order. `beats_all_controls` says that the gold answers are likelier than by the
    base and by the shuffled control, each with an interval above 0; it is None while one of them is missing.
    """
    rows = len(next(iter(systems.values())).scores)
    numbers = final_numbers(gold)
    measured = {name: _measures(said, gold, numbers) for name, said in systems.items()}
    report: dict[str, Any] = {"rows": rows, "kind": "text", "systems": {}, "against": {}}
    for name, values in measured.items():
        tokens = sum(score.tokens for score in systems[name].scores)
        report["systems"][name] = {key: _rounded(estimate(value)) for key, value in values.items()} | {
            "answered": len(systems[name].texts),
            "gold_tokens": round(tokens / rows, 1),
        }
    if "learnware" not in measured:
        return report
    own = measured["learnware"]
    for name in CONTROLS:
        if name in measured:
            other = measured[name]
            likelihood = _difference(own["log_likelihood_a_token"], other["log_likelihood_a_token"])
            report["against"][name] = {"log_likelihood_a_token": _rounded(likelihood), "better": likelihood.low > 0}
            if "rouge_l" in own:
                report["against"][name]["rouge_l"] = _rounded(_difference(own["rouge_l"], other["rouge_l"]))
            if "final_number" in own:
                turned = compare([v > 0 for v in own["final_number"]], [v > 0 for v in other["final_number"]])
                report["against"][name]["final_number"] = _rounded(turned.difference) | {
                    "mcnemar_p": float(f"{turned.p:.2g}")
                }
    complete = all(name in report["against"] for name in CONTROLS)
    report["beats_all_controls"] = all(item["better"] for item in report["against"].values()) if complete else None
    return report


def text_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the reports as a Markdown table, one line a task: the gold answer's log-likelihood a token, then ROUGE-L
    and the final number's accuracy of base / shuffled control / learnware."""
    lines = [
        "| learnware | rows | base | shuffled | learnware | over base (95 %) | over shuffled | ROUGE-L | number |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, report in reports.items():
        names = (*CONTROLS, "learnware")
        likelihoods = [_mean(report, name, "log_likelihood_a_token", 2) for name in names]
        gains = [_gain(report["against"].get(name)) for name in CONTROLS]
        overlaps, numbers = (
            " / ".join(_mean(report, name, key, 3) for name in names) for key in ("rouge_l", "final_number")
        )
        lines.append(
            "| " + " | ".join([f"`{task}`", str(report["rows"]), *likelihoods, *gains, overlaps, numbers]) + " |"
        )
    return "\n".join(lines)


def rouge_l(said: str, gold: str) -> float:
    """Returns ROUGE-L's F-measure, from 0 to 1.

    Raises:
        StartupError: the library is not installed.
    """
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise StartupError(
            "ROUGE-L of answers in sentences needs the package rouge-score (extra: learnware-serving[bench])"
        ) from error
    return float(rouge_scorer.RougeScorer(["rougeL"]).score(gold, said)["rougeL"].fmeasure)


def final_numbers(gold: Sequence[str]) -> list[float | None]:
    """Returns the number that each gold answer ends with, None where one does not; an empty list where answers as a
    rule do not end with a number."""
    found = [_LAST.search(answer) for answer in gold]
    if sum(match is not None for match in found) < MOSTLY * max(1, len(gold)):
        return []
    return [_value(match.group(1)) if match is not None else None for match in found]


def _last_number(text: str) -> float | None:
    numbers = re.findall(_NUMBER, text)
    return _value(numbers[-1]) if numbers else None


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _measures(said: Said, gold: Sequence[str], numbers: Sequence[float | None]) -> dict[str, list[float]]:
    measures = {"log_likelihood_a_token": [score.gold_log_likelihood for score in said.scores]}
    if said.texts:
        measures["rouge_l"] = [rouge_l(text, answer) for text, answer in zip(said.texts, gold, strict=False)]
    if said.texts and numbers:
        pairs = zip(map(_last_number, said.texts), numbers, strict=False)
        measures["final_number"] = [
            float(a is not None and b is not None and math.isclose(a, b, rel_tol=SAME_NUMBER)) for a, b in pairs
        ]
    return measures


def _difference(own: Sequence[float], other: Sequence[float]) -> Estimate:
    return estimate([a - b for a, b in zip(own, other, strict=True)])


def _rounded(value: Estimate) -> dict[str, float]:
    return {name: round(number, DIGITS) for name, number in value._asdict().items()}


def _mean(report: Mapping[str, Any], system: str, measure: str, digits: int) -> str:
    value = report["systems"].get(system, {}).get(measure)
    return "–" if value is None else f"{value['mean']:.{digits}f}"


def _gain(against: Mapping[str, Any] | None) -> str:
    if against is None:
        return "–"
    value = against["log_likelihood_a_token"]
    return f"{value['mean']:+.2f} ({value['low']:+.2f} to {value['high']:+.2f})"
