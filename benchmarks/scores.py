"""The score matrix: which system answers which test row right, packed into one small file.

`learnware-serving score --matrix --out OUT` leaves OUT/matrix.json and a file of row scores for each system and task.
`pack` keeps one bit of each, and `evaluate` turns a routing of the rows into the scores of base, routed, best single
learnware and oracle.
"""

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
    """Positions of the scored rows in the task's test split, and for each system whether it answers them right."""

    rows: list[int]
    right: dict[str, Right]


class Scores(NamedTuple):
    """Mean accuracy over tasks, in [0, 1]."""

    base: float
    routed: float
    best_single: float
    oracle: float
    best_single_id: str
    by_task: dict[str, dict[str, float]]


def pack(out: Path, test_rows: Mapping[str, int], target: Path) -> None:
    """Writes the compact matrix of a folder that `score --matrix` wrote. `test_rows` is each task's number of test
    rows.

    Raises:
        InvalidInput: the folder has no matrix, or lacks rows of one cell.
    """
    try:
        report = json.loads((out / "matrix.json").read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"{out}: no matrix.json ({error.strerror}); run `learnware-serving score --matrix`"
        ) from None
    packed: dict[str, Any] = {key: report[key] for key in ("protocol", "base_model", "adapters_sha256", "rows_sha256")}
    limit = report["max_rows"]
    tasks: dict[str, Any] = {}
    for task, hashed in report["rows_sha256"].items():
        total = test_rows[task]
        rows = list(range(total)) if limit is None or total <= limit else [i * total // limit for i in range(limit)]
        right = {
            system: _bits(out / "cells" / f"{report['adapters_sha256'][system][:16]}-{hashed[:16]}.jsonl", len(rows))
            for system in report["matrix"][task]
        }
        tasks[task] = {"rows": rows, "right": right}
    target.write_text(json.dumps(packed | {"tasks": tasks}) + "\n", encoding="utf-8")


def _bits(path: Path, rows: int) -> str:
    right = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            right[item["row"]] = int(np.argmax(item["scores"])) == item["gold"]
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    if set(right) != set(range(rows)):
        raise InvalidInput(f"{path.name} has {len(right)} of {rows} rows; run `learnware-serving score --matrix` again")
    return "".join("1" if right[row] else "0" for row in range(rows))


def read_scores(path: Path) -> dict[str, TaskScores]:
    """The packed matrix: learnware id (whose task it is) → scores.

    Raises:
        InvalidInput: the file is not there or not a packed matrix.
    """
    try:
        tasks = json.loads(path.read_bytes())["tasks"]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInput(f"{path} is not a packed score matrix: {error}") from None
    return {
        task: TaskScores(
            entry["rows"], {name: np.array([bit == "1" for bit in bits]) for name, bits in entry["right"].items()}
        )
        for task, entry in tasks.items()
    }


def evaluate(matrix: Mapping[str, TaskScores], routed: Mapping[str, Sequence[str | None]]) -> Scores:
    """Scores of a routing: for each task the chosen learnware of every test row (None: the base model).

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
