"""Tables of what the starter learnwares are worth, from the scores that `learnware-serving score` wrote."""

from collections.abc import Mapping
from typing import Any

from benchmarks.tables.cells import HUNDREDTHS, NOT_MEASURED, SIGNED, THOUSANDTHS, Form, Results, Table, interval, text

CONTROLS = ("base", "majority", "shuffled")
SOURCE = "From `benchmarks/results/starter_scores.json` (base model {base_model}; at most {max_rows} test rows a task)."
POINTS = Form(1, 100)
"""Writes an accuracy in percent, without the sign."""

Task = Mapping[str, Any]


def starters(results: Results) -> Table:
    """Compares the starters that label to the base model and to the controls, in accuracy on test rows."""
    content = results.read("starter_scores")
    rows = [_labels(name, task) for name, task in sorted(content["tasks"].items()) if not _is_sentences(task)]
    header = ["learnware", "rows", *CONTROLS, "learnware (95 %)", "log p(gold)", "steps", "beats all"]
    return Table(header, rows, SOURCE.format_map(content))


def starters_sentences(results: Results) -> Table:
    """Compares the starters that answer in sentences to the base model and to their shuffled control."""
    content = results.read("starter_scores")
    rows = [_sentences(name, task) for name, task in sorted(content["tasks"].items()) if _is_sentences(task)]
    header = ["learnware", "rows", "base", "shuffled", "learnware", "over base (95 %)", "over shuffled (95 %)"]
    return Table([*header, "ROUGE-L", "number"], rows, SOURCE.format_map(content))


def _is_sentences(task: Task) -> bool:
    return task.get("kind") == "text"


def _labels(name: str, task: Task) -> list[str]:
    own = task["systems"]["learnware"]["accuracy"]
    return [
        f"`{name}`",
        str(task["rows"]),
        *(_mean(task, key, "accuracy", POINTS) for key in CONTROLS),
        f"**{POINTS.number(own['mean'])}** ({_spread(own, POINTS)})",
        " → ".join(_mean(task, key, "gold_log_likelihood", HUNDREDTHS) for key in ("base", "learnware")),
        " / ".join(_steps(task, key) for key in ("learnware", "shuffled")),
        "yes" if task["beats_all_controls"] else "**no**",
    ]


def _steps(task: Task, system: str) -> str:
    training = task.get("training", {}).get(system)
    return str(training["steps"]) if training else NOT_MEASURED


def _sentences(name: str, task: Task) -> list[str]:
    kinds = ("base", "shuffled", "learnware")
    return [
        f"`{name}`",
        str(task["rows"]),
        *(_mean(task, key, "log_likelihood_a_token", HUNDREDTHS) for key in kinds),
        *(_over(task, key) for key in kinds[:2]),
        " / ".join(_mean(task, key, "rouge_l", THOUSANDTHS) for key in kinds),
        " / ".join(_mean(task, key, "final_number", THOUSANDTHS) for key in kinds),
    ]


def _mean(task: Task, system: str, score: str, form: Form) -> str:
    found = task["systems"].get(system, {}).get(score)
    return text(found and found["mean"], form)


def _over(task: Task, system: str) -> str:
    found = task["against"].get(system)
    if found is None:
        return NOT_MEASURED
    gain = found["log_likelihood_a_token"]
    return f"{SIGNED.number(gain['mean'])} ({_spread(gain, SIGNED)})"


def _spread(score: Mapping[str, float], form: Form) -> str:
    return interval((score["low"], score["high"]), form)
