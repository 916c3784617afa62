"""Does a task's specification find the same task? `python -m benchmarks.market.task_retrieval --inputs FOLDER`.

`FOLDER` is that of `benchmarks.market.rule_inputs`: of every task two halves of train rows that share none. Each half
is specified by itself, and each user's is compared with all providers'. Right is the provider's half of the same task.
Every rule sees the same rows: PAVE's vectors come from them, and the reduced sets and means are made of them here.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.market.rule_inputs import RuleInputs, read_inputs
from specs.encoding.encoder import Encoder, load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.pave import ParameterVector, cosine
from specs.rkme import ReducedSet, reduce_points, squared_mmd
from specs.specification import POINTS_PER_VIEW, make_specification
from specs.specification_types import PARAMETER_VECTOR, RKME

PACKAGE_GAMMA = 0.1

Scores = NDArray[np.float64]
"""Similarity of each user's half to each provider's: (tasks, tasks)."""


class Halves(NamedTuple):
    """Texts and parameter vectors of both halves of each task, in the order of `tasks`."""

    tasks: list[str]
    provider_texts: list[list[str]]
    user_texts: list[list[str]]
    provider: list[ParameterVector]
    user: list[ParameterVector]


def read_halves(folder: Path) -> Halves:
    """Raises InvalidInput when no task has both vectors."""
    inputs: RuleInputs = read_inputs(folder)
    tasks = sorted(set(inputs.provider) & set(inputs.user))
    if len(tasks) < 2:
        raise InvalidInput(f"{folder} holds both halves of {len(tasks)} tasks; at least two are needed")

    def texts(task: str) -> list[str]:
        lines = (folder / "rows" / f"{task}.user.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines]

    return Halves(
        tasks,
        [inputs.texts[task] for task in tasks],
        [texts(task) for task in tasks],
        [inputs.provider[task] for task in tasks],
        [inputs.user[task] for task in tasks],
    )


def pairs(users: Sequence[Any], providers: Sequence[Any], score: Callable[[Any, Any], float]) -> Scores:
    """Returns the scores of all pairs; `score` takes the provider's first."""
    return np.array([[score(provider, user) for provider in providers] for user in users])


def pave(halves: Halves) -> Scores:
    return pairs(halves.user, halves.provider, PARAMETER_VECTOR.score)


def centred_pave(halves: Halves) -> Scores:
    """Returns cosines after the providers' mean is subtracted: the effect that all tasks have on the proxy
    distinguishes none."""
    providers, users = (np.stack([one.tau for one in side]) for side in (halves.provider, halves.user))
    mean = providers.mean(0)
    left, right = (side - mean for side in (users, providers))
    norms = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return np.asarray(left @ right.T / norms, np.float64)


def package_rkme(halves: Halves, encoder: Encoder) -> Scores:
    """Returns squared MMDs with γ = 0.1, as in the `learnware` package, negated so that larger is nearer."""

    def reduced(texts: Sequence[str]) -> ReducedSet:
        vectors = encoder.encode(texts)
        return reduce_points(vectors, min(100, 2 * len(vectors) // 3), PACKAGE_GAMMA)

    users, providers = ([reduced(texts) for texts in side] for side in (halves.user_texts, halves.provider_texts))
    return pairs(users, providers, lambda provider, user: -squared_mmd(provider, user, PACKAGE_GAMMA))


def own_rkme(halves: Halves, encoder: Encoder) -> Scores:
    """Returns cosines of kernel means of the project's reduced sets, each provider's under its own kernel."""
    users, providers = (
        [make_specification({"whole": texts}, encoder, POINTS_PER_VIEW) for texts in side]
        for side in (halves.user_texts, halves.provider_texts)
    )
    return pairs([one.whole_set for one in users], providers, RKME.score)


def means(halves: Halves, encoder: Encoder) -> Scores:
    """Returns cosines of the mean vectors."""
    users, providers = (
        np.stack([encoder.encode(texts).mean(0) for texts in side])
        for side in (halves.user_texts, halves.provider_texts)
    )
    norms = np.linalg.norm(users, axis=1)[:, None] * np.linalg.norm(providers, axis=1)
    return np.asarray(users @ providers.T / norms, np.float64)


class Retrieval(NamedTuple):
    """Shares of a rule. `task`: users whose own task is the nearest; `domain`: users whose nearest task is of their
    domain; `margin`: mean lead of the own task before the best other one, in standard deviations of the rule's
    scores."""

    task: float
    domain: float
    margin: float
    wrong: dict[str, str]


def retrieve(tasks: Sequence[str], scores: Scores) -> Retrieval:
    nearest = [tasks[best] for best in scores.argmax(1)]
    own = np.diag(scores)
    others = np.where(np.eye(len(tasks), dtype=bool), -np.inf, scores).max(1)
    same_domain = [found.split("-", 1)[0] == task.split("-", 1)[0] for found, task in zip(nearest, tasks, strict=True)]
    wrong = {task: found for task, found in zip(tasks, nearest, strict=True) if task != found}
    margin = float((own - others).mean() / scores.std())
    return Retrieval(1 - len(wrong) / len(tasks), float(np.mean(same_domain)), margin, wrong)


def measure(halves: Halves, encoder: Encoder) -> dict[str, tuple[Retrieval, float]]:
    """Returns each rule's shares and its processor time in seconds, which is that of comparing and of specifying
    (PAVE's vectors are made beforehand)."""
    rules: Mapping[str, Callable[[], Scores]] = {
        "PAVE, sigmoid(10 cos)": lambda: pave(halves),
        "PAVE, centred cosine": lambda: centred_pave(halves),
        "RKME, MMD, γ 0.1": lambda: package_rkme(halves, encoder),
        "RKME, cosine, local γ": lambda: own_rkme(halves, encoder),
        "cosine of means": lambda: means(halves, encoder),
    }
    found = {}
    for name, score in rules.items():
        begun = time.process_time()
        found[name] = (retrieve(halves.tasks, score()), time.process_time() - begun)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.market.task_retrieval", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--inputs", type=Path, required=True, help="folder of `benchmarks.market.rule_inputs`")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    try:
        halves = read_halves(options.inputs)
        found = measure(halves, load_prompt_encoder())
    except LearnwareError as error:
        print(f"benchmarks.market.task_retrieval: {error}", file=sys.stderr)
        return 1
    rows = [
        [name, f"{100 * one.task:.1f}", f"{100 * one.domain:.1f}", f"{one.margin:.2f}", f"{seconds:.1f}"]
        for name, (one, seconds) in found.items()
    ]
    print(f"{len(halves.tasks)} tasks, two halves of at most 200 train rows each")
    print(table(["rule", "task, %", "domain, %", "margin", "s"], rows))
    same = [cosine(left, right) for left, right in zip(halves.provider, halves.user, strict=True)]
    between = [
        cosine(left, right) for i, left in enumerate(halves.provider) for j, right in enumerate(halves.user) if i != j
    ]
    print(f"PAVE's cosines: {np.mean(same):.3f} between halves of a task, {np.mean(between):.3f} between tasks")
    figures = {f"task_{name}": one.task for name, (one, _) in found.items()}
    figures |= {"cosine_same_task": float(np.mean(same)), "cosine_other_task": float(np.mean(between))}
    details = {"rules": {name: one._asdict() | {"seconds": seconds} for name, (one, seconds) in found.items()}}
    conditions = setup() | {"tasks": halves.tasks, "basis": halves.provider[0].basis.key}
    write_result(options, result("task_retrieval", figures, conditions, details))
    return 0


if __name__ == "__main__":
    sys.exit(main())
