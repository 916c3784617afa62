"""Reads the score matrix that `learnware-serving matrix` writes: which system answers which test row right, and the
log-likelihood of each gold answer. `evaluate` turns a routing of the rows into the scores of base, routed, best single
learnware and oracle."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.errors import InvalidInput

BASE = "base"
Right = NDArray[np.bool_]


class TaskScores(NamedTuple):
    """The scores of one task: positions of the scored rows in the task's split; for each system whether it answers them
    right, the log-likelihood of their gold answers in nats, and the gold answers' probability among those to choose
    from."""

    rows: list[int]
    right: dict[str, Right]
    gold: dict[str, NDArray[np.float64]]
    among: dict[str, NDArray[np.float64]]


class Scores(NamedTuple):
    """The scores of a routing, as mean accuracy over tasks in [0, 1], and by task."""

    base: float
    routed: float
    best_single: float
    oracle: float
    best_single_id: str
    by_task: dict[str, dict[str, float]]


def read_scores(path: Path) -> dict[str, TaskScores]:
    """Returns the matrix by task, named <domain>-<name>.

    Raises:
        InvalidInput: the file is not there or not a score matrix.
    """
    try:
        tasks = json.loads(path.read_bytes())["tasks"]
        return {task: _task_scores(entry) for task, entry in tasks.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not a score matrix of `learnware-serving matrix`: {error}") from None


def _task_scores(entry: Mapping[str, Any]) -> TaskScores:
    right = {name: np.array([bit == "1" for bit in bits]) for name, bits in entry["right"].items()}
    gold, among = (
        {name: np.frombuffer(base64.b64decode(text), "<f2").astype(float) for name, text in entry[kind].items()}
        for kind in ("gold", "among")
    )
    for name, values in right.items():
        if {len(values), len(gold[name]), len(among[name])} != {len(entry["rows"])}:
            raise ValueError(f"{name} has {len(values)} scores for {len(entry['rows'])} rows")
    return TaskScores(entry["rows"], right, gold, among)


def evaluate(matrix: Mapping[str, TaskScores], routed: Mapping[str, Sequence[str | None]]) -> Scores:
    """Returns the scores of a routing, which names for each task the chosen learnware of every test row (None: the base
    model).

    The oracle and the best single learnware are chosen on one half of a task's rows and scored on the other, and
    swapped, among the learnwares and the base.
    """
    systems = sorted(set.intersection(*(set(scores.right) for scores in matrix.values())))
    learnwares = [name for name in systems if name != BASE]
    by_task: dict[str, dict[str, float]] = {}
    halves: dict[str, tuple[Right, Right]] = {}
    for task, scores in matrix.items():
        even = np.arange(len(scores.rows)) % 2 == 0
        halves[task] = (even, ~even)
        picked = [scores.right[routed[task][row] or BASE][position] for position, row in enumerate(scores.rows)]
        oracle = []
        for fit, held in (halves[task], halves[task][::-1]):
            best = max(systems, key=lambda name: float(scores.right[name][fit].mean()))
            oracle.append(scores.right[best][held])
        by_task[task] = {
            "base": float(scores.right[BASE].mean()),
            "routed": float(np.mean(picked)),
            "own": float(scores.right[task].mean()) if task in scores.right else float("nan"),
            "oracle": float(np.concatenate(oracle).mean()),
        }
    single: dict[str, float] = dict.fromkeys(matrix, 0.0)
    names = []
    for side in (0, 1):
        means = {
            name: np.mean([matrix[task].right[name][halves[task][side]].mean() for task in matrix])
            for name in learnwares
        }
        names.append(max(learnwares, key=lambda name: float(means[name])))
        for task, scores in matrix.items():
            held = halves[task][1 - side]
            single[task] += float(scores.right[names[-1]][held].sum()) / len(scores.rows)
    for task, value in single.items():
        by_task[task]["best_single"] = value

    def mean(kind: str) -> float:
        return float(np.mean([values[kind] for values in by_task.values()]))

    return Scores(
        mean("base"), mean("routed"), mean("best_single"), mean("oracle"), " / ".join(dict.fromkeys(names)), by_task
    )
