"""How well feedback teaches the choice, replayed on a measured market.

    python -m benchmarks.learning --data DATA --learnwares FOLDER --matrix FILE

`FILE` is a score matrix (`learnware-serving matrix`) of test rows of tasks that no learnware in `FOLDER` was made for:
what the likeliest candidates (`--candidates` prints them) and the base model answer right. The first rows of a task are
feedback, the others judge. Compared are the choice without feedback, with scores of whoever answered, and with right
answers scored under all candidates, which the matrix tells here and no stack computes today; with a tenant of ten that
tells the opposite; and with changes that wait for approval.

The way from random to the oracle is (quality of the choice - quality of a random candidate) / (quality of the task's
best candidate on the very rows that judge - quality of a random candidate), summed over tasks. What feedback on these
tasks takes from those with a learnware of their own is at most the share of their rows whose choice changes.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.scores import read_scores
from benchmarks.common.tasks import add_data_option, read_prompts, task_of
from benchmarks.learning.replay import (
    Reached,
    ReplayTask,
    Teller,
    lying,
    reached,
    replay,
    right_answers,
    scores_alone,
    way,
)
from router.prospects import CANDIDATES, prospects
from router.selection import Selector
from router.settings import SelectionSettings
from router.task_model import own_tasks
from serving.config_insight import FeedbackSettings
from specs.answers.form import asked_form
from specs.encoding.encoder import PromptEncoder, load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.learnware import Learnware, load_learnwares

FEEDBACK_ROWS = 50
"""Rows of each task that give feedback."""
STEPS = (0, 5, 10, 20, 50)
"""Pieces of feedback of each task after which it is judged."""
TENANTS = 10
"""Tenants that give feedback in turn."""
LIAR = "tenant 0"
"""The tenant that tells the opposite."""
OWN_ROWS = 100
"""Rows of each task with a learnware of its own whose choices are compared."""
EXPLORE = 0.1
"""Share of requests that explore, where exploration is on."""


def tasks_of(data: Path, matrix: Path, encoder: PromptEncoder, feedback_rows: int) -> list[ReplayTask]:
    """Reads the tasks of a score matrix, with their rows' vectors.

    Raises:
        InvalidInput: the file is no score matrix, a task has no rows that could judge, or its rows are not in `data`.
    """
    tasks = []
    for name, scores in read_scores(matrix).items():
        if len(scores.rows) <= feedback_rows:
            raise InvalidInput(f"{name} has {len(scores.rows)} measured rows, of which {feedback_rows} give feedback")
        prompts = read_prompts(data, task_of(name), "test").whole
        if max(scores.rows) >= len(prompts):
            raise InvalidInput(
                f"{name} has {len(prompts)} test rows in {data}, and row {max(scores.rows)} was measured"
            )
        chosen = [prompts[row] for row in scores.rows]
        tasks.append(ReplayTask(name, encoder.encode(chosen), tuple(map(asked_form, chosen)), scores, feedback_rows))
    return tasks


class OwnTasks:
    """Rows of tasks with a learnware of their own, and what is chosen for them without feedback."""

    def __init__(self, data: Path, learnwares: Sequence[Learnware], selector: Selector, rows: int) -> None:
        names = sorted({task for one in learnwares for task in own_tasks(one)})
        prompts = [prompt for name in names for prompt in read_prompts(data, task_of(name), "test", rows).whole]
        self._vectors = selector.encoder.encode(prompts)
        self._forms = [asked_form(prompt) for prompt in prompts]
        self._before = self._chosen(selector)

    def changed(self, selector: Selector) -> float:
        """Returns the share of the rows whose choice is another than without feedback."""
        return float(np.mean([now != before for now, before in zip(self._chosen(selector), self._before, strict=True)]))

    def _chosen(self, selector: Selector) -> list[str | None]:
        rows = zip(self._vectors, self._forms, strict=True)
        return [selector.choose_embedded(vector, 5, form).learnware_id for vector, form in rows]


def conditions() -> dict[str, tuple[Teller, bool]]:
    """Returns what is compared: who tells what, and whether held changes are approved."""
    return {
        "right_answers": (right_answers, True),
        "right_answers_one_liar": (lying(right_answers, frozenset({LIAR})), True),
        "right_answers_unapproved": (right_answers, False),
        "scores": (scores_alone(0.0), True),
        "scores_exploring": (scores_alone(EXPLORE), True),
        "scores_one_liar": (lying(scores_alone(0.0), frozenset({LIAR})), True),
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every condition at every step; returns the benchmark's result."""
    encoder = load_prompt_encoder()
    learnwares = load_learnwares(options.learnwares)
    selector = Selector(learnwares, encoder, SelectionSettings())
    tasks = tasks_of(options.data, options.matrix, encoder, options.feedback_rows)
    own = OwnTasks(options.data, learnwares, selector, options.own_rows)
    steps = tuple(step for step in STEPS if step <= options.feedback_rows)
    tenants = [f"tenant {number}" for number in range(TENANTS)]
    settings = FeedbackSettings(learn=True)
    found: dict[str, dict[int, dict[str, Reached]]] = {}
    changes: dict[str, dict[int, float]] = {}
    for name, (tell, approve) in conditions().items():
        judged, changed = found.setdefault(name, {}), changes.setdefault(name, {})
        for count, taught in replay(tasks, selector, settings, tell, steps, tenants, approve):
            judged[count] = {task.name: reached(task, taught) for task in tasks}
            changed[count] = own.changed(taught)
        ways = ", ".join(f"{count}: {way(one):.2f}" for count, one in judged.items())
        print(f"{name}: {ways}", file=sys.stderr, flush=True)
    return _result(options, tasks, found, changes)


def _result(
    options: argparse.Namespace,
    tasks: Sequence[ReplayTask],
    found: Mapping[str, Mapping[int, Mapping[str, Reached]]],
    changes: Mapping[str, Mapping[int, float]],
) -> dict[str, Any]:
    last = max(next(iter(found.values())))
    first = next(iter(found.values()))[0]
    figures: dict[str, float] = {"way_without": way(first)}
    figures |= {f"way_{name}": way(judged[last]) for name, judged in found.items()}
    for figure, told in (("lost_by_a_liar", "right_answers"), ("lost_by_a_liar_scores", "scores")):
        honest, lied = found[told][last], found[f"{told}_one_liar"][last]
        figures[figure] = float(np.mean([honest[name].chosen - lied[name].chosen for name in honest]))
    figures["own_rows_changed_most"] = max(share for some in changes.values() for share in some.values())
    details = {
        "ways": {name: {str(count): way(one) for count, one in judged.items()} for name, judged in found.items()},
        "own_rows_changed": {name: {str(count): one for count, one in some.items()} for name, some in changes.items()},
        "by_task": {
            task.name: {
                "random": first[task.name].random,
                "oracle": first[task.name].oracle,
                "base": first[task.name].base,
                "without": first[task.name].chosen,
                **{name: judged[last][task.name].chosen for name, judged in found.items()},
                "unmeasured": max(judged[last][task.name].unmeasured for judged in found.values()),
            }
            for task in tasks
        },
    }
    about = setup() | {
        "tasks": {task.name: len(task.vectors) for task in tasks},
        "feedback_rows": options.feedback_rows,
        "tenants": TENANTS,
        "explore": EXPLORE,
    }
    return result("learning", figures, about, details)


def candidates(options: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the likeliest candidates of each task in `--tasks`, by its first test rows: what a matrix must hold."""
    encoder = load_prompt_encoder()
    selector = Selector(load_learnwares(options.learnwares), encoder, SelectionSettings())
    found = {}
    for name in options.tasks:
        vectors = encoder.encode(read_prompts(options.data, task_of(name), "test", options.feedback_rows).whole)
        found[name] = prospects(selector, vectors).likeliest(CANDIDATES)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=(__doc__ or "").split("\n")[0])
    add_data_option(parser)
    parser.add_argument("--matrix", type=Path, help="score matrix on test rows of tasks without a learnware")
    parser.add_argument("--feedback-rows", type=int, default=FEEDBACK_ROWS, help="of each task (default: %(default)s)")
    parser.add_argument("--own-rows", type=int, default=OWN_ROWS, help="of each other task (default: %(default)s)")
    parser.add_argument("--candidates", action="store_true", help="only print the likeliest candidates of --tasks")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="for --candidates, as <domain>-<task>")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    if options.data is None or (options.matrix is None and not options.candidates):
        print("benchmarks.learning needs --data FOLDER (or LEARNWARE_DATA) and --matrix FILE", file=sys.stderr)
        return 2
    try:
        if options.candidates:
            print(json.dumps(candidates(options), indent=1))
            return 0
        content = run(options)
    except LearnwareError as error:
        print(f"benchmarks.learning: {error}", file=sys.stderr)
        return 1
    by_task = content["details"]["by_task"]
    names = list(next(iter(by_task.values())))
    print(table(["task", *names], [[task, *(f"{one[n]:.3f}" for n in names)] for task, one in by_task.items()]))
    print(table(["figure", "measured"], [[name, f"{value:.3f}"] for name, value in content["figures"].items()]))
    write_result(options, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
