"""Measures which learnware a task's specification gets, by its number of rows: `python -m benchmarks.task_choice`.

Of every task in the data n rows are drawn again and again, their mean gets the noise of a specification, and
`Selector.choose_task` chooses. A task is *own* when a learnware names it; all others are *foreign*, though one may be
so near to a learnware's that it helps. So of foreign tasks the share that gets a learnware is a fact, and the share
that gets one of another domain a fault. Of tasks with fewer rows than n all are taken.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.cases import domain_of
from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.tasks import add_data_option, read_prompts
from router.selection import Selector
from router.settings import SelectionSettings
from router.task_model import own_tasks
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidInput, LearnwareError
from specs.learnware import load_learnwares
from specs.task import DEFAULT_MU, sensitivity

ROWS = (20, 50, 100, 200)
DRAWS = 5
MOST = 300

Vectors = Mapping[str, NDArray[np.float64]]


class Shares(NamedTuple):
    """Shares of draws: `right`, `base` and `own_wrong_domain` among those of own tasks, `foreign_chosen` and
    `foreign_wrong_domain` among those of foreign ones."""

    right: float
    base: float
    own_wrong_domain: float
    foreign_chosen: float
    foreign_wrong_domain: float


def tasks_in(data: Path, split: str) -> list[str]:
    """Returns the tasks of a folder, named <domain>-<task>. Raises InvalidInput when there is none."""
    ending = f".{split}.jsonl"
    found = sorted(f"{path.parent.name}-{path.name.removesuffix(ending)}" for path in data.glob(f"*/*{ending}"))
    if not found:
        raise InvalidInput(f"{data} holds no <domain>/<task>{ending}")
    return found


def measure(
    selector: Selector, own: Mapping[str, set[str]], vectors: Vectors, rows: int, draws: int, mu: float
) -> Shares:
    """Returns the shares over all tasks; `own` holds by task the ids of the learnwares that name it."""
    noise = sensitivity(rows) / mu
    mine, foreign = [], []
    for place, (task, all_rows) in enumerate(vectors.items()):
        for draw in range(draws):
            generator = np.random.default_rng([place, rows, draw])
            mean = all_rows[generator.permutation(len(all_rows))[:rows]].mean(0)
            noisy = (mean + noise * generator.normal(size=mean.shape)).astype(np.float32)
            chosen = selector.choose_task(noisy, noise).learnware_id
            wrong_domain = chosen is not None and domain_of(chosen) != domain_of(task)
            if task in own:
                mine.append((chosen in own[task], chosen is None, wrong_domain))
            else:
                foreign.append((chosen is not None, wrong_domain))
    of_own = np.mean(mine, axis=0) if mine else np.full(3, np.nan)
    of_foreign = np.mean(foreign, axis=0) if foreign else np.full(2, np.nan)
    return Shares(*map(float, of_own), *map(float, of_foreign))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.task_choice", description=__doc__.split("\n")[0])
    add_data_option(parser)
    parser.add_argument("--split", choices=("train", "test"), default="test", help="rows that are drawn from")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="rows of a specification")
    parser.add_argument("--draws", type=int, default=DRAWS, help="specifications of each task")
    parser.add_argument("--most", type=int, default=MOST, help="rows of a task that are read")
    parser.add_argument("--mu", type=float, default=DEFAULT_MU, help="privacy of a row")
    add_output_options(parser)
    options = parser.parse_args(arguments)
    try:
        if options.data is None:
            raise InvalidInput("--data FOLDER (or $LEARNWARE_DATA) must name the tasks' rows")
        found, tasks = run(options)
    except LearnwareError as error:
        print(f"benchmarks.task_choice: {error}", file=sys.stderr)
        return 1
    print(
        table(["rows", *Shares._fields], [[str(n), *(f"{100 * x:.1f}" for x in shares)] for n, shares in found.items()])
    )
    figures = {f"{name}_{n}": value for n, shares in found.items() for name, value in shares._asdict().items()}
    conditions: dict[str, Any] = setup() | {"tasks": tasks, "split": options.split, "mu": options.mu}
    write_result(options, result("task_choice", figures, conditions, {}))
    return 0


def run(options: argparse.Namespace) -> tuple[dict[int, Shares], list[str]]:
    """Measures every number of rows; returns the shares by rows, and the tasks."""
    learnwares, encoder = load_learnwares(options.learnwares), load_prompt_encoder()
    selector = Selector(learnwares, encoder, SelectionSettings())
    own: dict[str, set[str]] = {}
    for one in learnwares:
        for task in own_tasks(one):
            own.setdefault(task, set()).add(one.id)
    vectors = {}
    for task in tasks_in(options.data, options.split):
        prompts = read_prompts(options.data, task.replace("-", "/", 1), options.split, options.most)
        vectors[task] = encoder.encode(prompts.whole).astype(np.float64)
        print(f"{task}: {len(vectors[task])} rows", file=sys.stderr, flush=True)
    return {n: measure(selector, own, vectors, n, options.draws, options.mu) for n in options.rows}, list(vectors)


if __name__ == "__main__":
    sys.exit(main())
