"""Measures what specifications tell about the rows they were made from, and what it costs to tell less.

    python -m benchmarks.privacy --data DATA --json FILE

Attacks (`benchmarks.privacy.attacks`) tell members from held-out rows of the SAME task: for each task a pool of up to
2n of its rows (train and test rows mixed at random; at n = 1,000 all of its 1,200 to 1,300), from which 32 times (4 to
16 times where a recipe has several points) n members are drawn. Areas under the curve are means over the tasks that
have the rows; intervals are 95 %, by bootstrap over tasks. `membership_auc` is the best attack's on the default of
`learnware-serving spec make` at n = 200.

Costs are accuracies of the choice of a task's learnware by `Selector.choose_task`, from n test rows of the task, among
the starter learnwares (their own tasks) and among specifications of all in-domain tasks' train rows; a choice of the
base model counts as wrong. `privacy_cost` is the exact mean's accuracy less the default's, in points, at n = 200, the
larger of the two sets.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.report import add_output_options, result, setup, table, write_result
from benchmarks.common.statistics import interval
from benchmarks.common.tasks import CHAT, DOMAINS, OTHER_CHOICES, add_data_option, read_prompts, task_of
from benchmarks.privacy.attacks import Pool, Released, attack
from router.selection import Selector
from router.settings import SelectionSettings
from specs.encoding.encoder import PROMPT_ENCODER, Encoder, load_prompt_encoder
from specs.errors import LearnwareError
from specs.learnware import Learnware, load_learnwares
from specs.rkme import local_gamma, reduce_points
from specs.specification import POINTS_PER_VIEW, make_specification
from specs.task import DEFAULT_MU, largest_auc, make_task_specification, sensitivity

Matrix = NDArray[np.float32]
Values = NDArray[np.float64]

SIZES = (200, 100, 1000)
POOL_OF_1000 = 1200
"""A task must have so many rows for n = 1,000, since some must be held out."""
PACKAGE_GAMMA = 0.1
PACKAGE_POINTS = 100
KMEANS_ROUNDS = 20
DEFAULT = f"1 point, mu {DEFAULT_MU:g} (default)"
EXACT = "1 point"


class SpecificationRecipe(NamedTuple):
    """A way to make a specification from n row vectors, with the number of shadow specifications and of choices for
    each task. Many points take up to a second each."""

    name: str
    make: Callable[[Matrix, np.random.Generator], Released]
    shadows: int = 32
    draws: int = 100
    sizes: tuple[int, ...] = SIZES


class Vectors:
    """An encoder whose texts are row numbers, so that the product's own function makes the benchmark's specifications
    from vectors that were computed once."""

    id, fingerprint = "rows", ""

    def __init__(self, rows: Matrix) -> None:
        self._rows = rows
        self.dim = rows.shape[1]

    def encode(self, texts: Sequence[str]) -> Matrix:
        return self._rows[[int(text) for text in texts]]


def mean(mu: float | None) -> Callable[[Matrix, np.random.Generator], Released]:
    """Returns the recipe of `learnware-serving spec make`: the rows' mean with the noise that `mu` asks for (None:
    without noise)."""

    def make(rows: Matrix, generator: np.random.Generator) -> Released:
        made = make_task_specification([str(number) for number in range(len(rows))], Vectors(rows), mu, generator)
        return Released(made.mean[None], np.ones(1), made.noise)

    return make


def points(size: int, mu: float | None = None) -> Callable[[Matrix, np.random.Generator], Released]:
    """Returns the recipe of k-means cells' means; with `mu` each has the noise that its number of rows asks for. The
    assignment of rows to cells is not hidden, so `mu` proves nothing here."""

    def make(rows: Matrix, generator: np.random.Generator) -> Released:
        means, counts = _cells(rows, size, generator)
        shares = counts / len(rows)
        if mu is None:
            return Released(means.astype(np.float32), shares, 0.0)
        noise = sensitivity(1) / counts / mu
        noisy = means + noise[:, None] * generator.normal(size=means.shape)
        return Released(noisy.astype(np.float32), shares, float(np.linalg.norm(noise * shares)))

    return make


def _cells(rows: Matrix, size: int, generator: np.random.Generator) -> tuple[Values, Values]:
    """Returns the means of the k-means cells that have rows, and the number of rows of each."""
    centres = rows[generator.permutation(len(rows))[:size]].astype(np.float64)
    for _ in range(KMEANS_ROUNDS):
        owners = (rows @ centres.T - (centres**2).sum(1) / 2).argmax(1)
        belongs = owners == np.arange(len(centres))[:, None]
        counts = belongs.sum(1)
        centres = (belongs @ rows)[counts > 0] / counts[counts > 0, None]
    return centres, counts[counts > 0].astype(float)


def view(rows: Matrix, _: np.random.Generator) -> Released:
    """Reduces rows as a learnware's view is made here."""
    reduced = reduce_points(rows, min(POINTS_PER_VIEW, 2 * len(rows) // 3), local_gamma(rows))
    return Released(reduced.points, reduced.weights, 0.0)


def published(rows: Matrix, _: np.random.Generator) -> Released:
    """Reduces rows by the published RKME with K = ⌊2n/3⌋."""
    reduced = reduce_points(rows, 2 * len(rows) // 3, PACKAGE_GAMMA)
    return Released(reduced.points, reduced.weights, 0.0)


def package(rows: Matrix, _: np.random.Generator) -> Released:
    """Reduces rows as the `learnware` package does by default for more than 100 rows."""
    reduced = reduce_points(rows, PACKAGE_POINTS, PACKAGE_GAMMA)
    return Released(reduced.points, reduced.weights, 0.0)


RECIPES = (
    SpecificationRecipe(DEFAULT, mean(DEFAULT_MU)),
    SpecificationRecipe(EXACT, mean(None)),
    SpecificationRecipe("1 point, mu 4", mean(4.0)),
    SpecificationRecipe("1 point, mu 2", mean(2.0)),
    SpecificationRecipe("1 point, mu 0.5", mean(0.5)),
    SpecificationRecipe("1 point, mu 0.25", mean(0.25)),
    SpecificationRecipe("4 points", points(4), shadows=16, draws=10),
    SpecificationRecipe("4 points, mu 1", points(4, 1.0), shadows=16, draws=10),
    SpecificationRecipe("10 points", points(10), shadows=16, draws=10),
    SpecificationRecipe("10 points, mu 1", points(10, 1.0), shadows=16, draws=10),
    SpecificationRecipe(f"{POINTS_PER_VIEW} points (a learnware's view)", view, shadows=4, draws=1),
    SpecificationRecipe("package's RKME, K = 100", package, shadows=4, draws=1, sizes=(200, 1000)),
    SpecificationRecipe("published RKME, K = 2n/3", published, shadows=4, draws=1, sizes=(100, 200)),
)


class TaskVectors(NamedTuple):
    """Vectors of a task's rows: train, test, and test without the instruction."""

    train: Matrix
    test: Matrix
    test_bare: Matrix


def read_tasks(data: Path, encoder: Encoder, names: Sequence[str]) -> dict[str, TaskVectors]:
    found = {}
    for name in names:
        train, test = read_prompts(data, name, "train"), read_prompts(data, name, "test")
        found[name] = TaskVectors(*(encoder.encode(rows) for rows in (train.whole, *test)))
    return found


def in_domain_tasks(data: Path) -> list[str]:
    return sorted(
        f"{domain}/{path.name.removesuffix('.train.jsonl')}"
        for domain in DOMAINS
        for path in (data / domain).glob("*.train.jsonl")
    )


def attacks_on(recipe: SpecificationRecipe, size: int, tasks: Mapping[str, TaskVectors]) -> dict[str, dict[str, float]]:
    """Returns areas under the curve by attack and task."""
    by_attack: dict[str, dict[str, float]] = {}
    for place, (name, rows) in enumerate(tasks.items()):
        generator = np.random.default_rng([place, size])
        everything = np.concatenate([rows.train, rows.test])
        if len(everything) < (POOL_OF_1000 if size == max(SIZES) else 1.5 * size):
            continue
        pool = Pool(everything[generator.permutation(len(everything))[: 2 * size]])
        inside = np.zeros((recipe.shadows, len(pool.vectors)), bool)
        for mask in inside:
            mask[generator.permutation(len(mask))[:size]] = True
        released = [recipe.make(pool.vectors[mask], generator) for mask in inside]
        for kind, area in attack(pool, released, inside).items():
            by_attack.setdefault(kind, {})[name] = area
    return by_attack


def summary_of(by_attack: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    means = {kind: float(np.mean(list(areas.values()))) for kind, areas in by_attack.items()}
    best = max(means, key=lambda kind: means[kind])
    areas = by_attack[best]
    worst = max(areas, key=lambda name: areas[name])
    return {
        "tasks": len(areas),
        "best_attack": best,
        "auc": means[best],
        "interval_95": interval(list(areas.values()), np.mean),
        "worst_task": {"task": worst, "auc": areas[worst]},
        "by_attack": {
            kind: {"auc": value, "interval_95": interval(list(by_attack[kind].values()), np.mean)}
            for kind, value in means.items()
        },
    }


def all_learnwares(tasks: Mapping[str, TaskVectors], like: Learnware) -> list[Learnware]:
    """Returns a learnware for each task, specified from its train rows; only its specification counts here."""
    made = []
    for name, rows in tasks.items():
        numbers = [str(number) for number in range(len(rows.train))]
        specification = make_specification({"whole": numbers}, Vectors(rows.train))
        named = replace(specification, encoder_id=PROMPT_ENCODER)
        domain, task = name.split("/", 1)
        made.append(replace(like, id=f"{domain}-{task}", domain=domain, tasks=(task,), specification=named))
    return made


def accuracy(
    recipe: SpecificationRecipe,
    size: int,
    selector: Selector,
    ids: Sequence[str],
    tasks: Mapping[str, TaskVectors],
    form: str,
) -> dict[str, list[float]]:
    """Returns for each task the share of samples whose own learnware is chosen, and of those for which it is the
    nearest."""
    chosen, nearest = [], []
    for place, name in enumerate(ids):
        generator = np.random.default_rng([place, size, 1])
        rows: Matrix = getattr(tasks[task_of(name)], form)
        hits = []
        for _ in range(recipe.draws):
            sample = rows[generator.permutation(len(rows))[:size]]
            released = recipe.make(sample, generator)
            average = (released.weights @ released.points).astype(np.float32)
            choice = selector.choose_task(average, released.mean_noise)
            hits.append((choice.learnware_id == name, choice.candidates[0].learnware_id == name))
        shares = np.mean(hits, axis=0)
        chosen.append(float(shares[0]))
        nearest.append(float(shares[1]))
    return {"chosen": chosen, "nearest": nearest}


def to_base(recipe: SpecificationRecipe, size: int, selector: Selector, rows: Matrix) -> float:
    """Returns the share of samples of a foreign task that go to the base model."""
    generator = np.random.default_rng(size)
    answers = []
    for _ in range(recipe.draws):
        released = recipe.make(rows[generator.permutation(len(rows))[:size]], generator)
        choice = selector.choose_task((released.weights @ released.points).astype(np.float32), released.mean_noise)
        answers.append(choice.learnware_id is None)
    return float(np.mean(answers))


def costs_of(
    recipe: SpecificationRecipe,
    size: int,
    sets: Mapping[str, tuple[Selector, list[str]]],
    tasks: Mapping[str, TaskVectors],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for label, (selector, ids) in sets.items():
        for form in ("test", "test_bare"):
            values = accuracy(recipe, size, selector, ids, tasks, form)
            found[label + ("" if form == "test" else ", bare")] = {
                "chosen": float(np.mean(values["chosen"])),
                "nearest": float(np.mean(values["nearest"])),
            }
            if form == "test":
                short = {name: value for name, value in zip(ids, values["nearest"], strict=True) if value < 1}
                found[label]["below_100"] = short
            if recipe.draws == 1:  # one draw of few rows says little more
                break
        if recipe.draws == 1:
            continue
        found[f"{label}: foreign tasks to the base"] = {
            name: to_base(recipe, size, selector, tasks[name].test) for name in (CHAT, *OTHER_CHOICES)
        }
    return found


def report(attacked: Mapping[int, Mapping[str, Any]], costs: Mapping[int, Mapping[str, Any]]) -> None:
    for size, by_recipe in attacked.items():
        rows = []
        for name, found in by_recipe.items():
            low, high = found["interval_95"]
            kinds = found["by_attack"]
            rows.append(
                [
                    name,
                    f"{found['auc']:.3f} ({low:.3f} to {high:.3f})",
                    found["best_attack"],
                    *(f"{kinds[kind]['auc']:.3f}" for kind in ("nearest", "density", "mean likelihood")),
                    f"{kinds['shadow, together']['auc']:.3f}",
                    f"{found['worst_task']['auc']:.3f}",
                    *_accuracies(costs.get(size, {}).get(name)),
                ]
            )
        tasks = max(found["tasks"] for found in by_recipe.values())
        print(f"\nn = {size}, {tasks} tasks\n")
        header = ["recipe", "best attack's AUC (95 %)", "which", "nearest", "density", "mean", "shadow", "worst task"]
        print(table([*header, "choice of starters, %", "of all, %"], rows))


def _accuracies(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", ""]
    return [f"{100 * found[label]['chosen']:.2f}" for label in ("starters", "all tasks")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.privacy", description=__doc__.split("\n")[0])
    add_data_option(parser)
    add_output_options(parser)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES), choices=SIZES, help="rows of a task")
    parser.add_argument("--recipes", nargs="*", help="only recipes whose names hold one of these")
    options = parser.parse_args(arguments)
    if options.data is None:
        print("benchmarks.privacy needs the task data: --data FOLDER, or LEARNWARE_DATA", file=sys.stderr)
        return 2
    started = time.monotonic()
    conditions = setup()
    try:
        encoder = load_prompt_encoder()
        starters = load_learnwares(options.learnwares)
        names = in_domain_tasks(options.data)
        own = read_tasks(options.data, encoder, names)
        everything = own | read_tasks(options.data, encoder, (CHAT, *OTHER_CHOICES))
    except LearnwareError as error:
        print(f"benchmarks.privacy: {error}", file=sys.stderr)
        return 1
    sets = {}
    for label, learnwares in (("starters", starters), ("all tasks", all_learnwares(own, starters[0]))):
        # by their specifications alone: what was measured of a learnware needs no task's rows
        unmeasured = [replace(learnware, capability=None) for learnware in learnwares]
        selector = Selector(unmeasured, encoder, SelectionSettings())
        sets[label] = (selector, [learnware.id for learnware in learnwares])
    conditions |= {"encoder": encoder.id, "tasks": names}
    conditions |= {"recipes": {each.name: {"shadows": each.shadows, "draws": each.draws} for each in RECIPES}}
    attacked: dict[int, dict[str, Any]] = {}
    costs: dict[int, dict[str, Any]] = {}
    for size in options.sizes:
        for recipe in RECIPES:
            if size not in recipe.sizes or (
                options.recipes and not any(part in recipe.name for part in options.recipes)
            ):
                continue
            attacked.setdefault(size, {})[recipe.name] = summary_of(attacks_on(recipe, size, own))
            if size < max(SIZES):  # no task has 1,000 test rows
                costs.setdefault(size, {})[recipe.name] = costs_of(recipe, size, sets, everything)
            auc = attacked[size][recipe.name]["auc"]
            passed = time.monotonic() - started
            print(f"{passed:6.0f} s  n = {size}, {recipe.name}: AUC {auc:.3f}", file=sys.stderr, flush=True)
        details = {
            "attacks": attacked,
            "costs": costs,
            "largest_auc_that_mu_allows": {f"{mu:g}": largest_auc(mu) for mu in (4, 2, 1, 0.5, 0.25)},
            "seconds": round(time.monotonic() - started),
        }
        # after each size, since all of them take a while
        write_result(options, result("privacy", figures_of(attacked, costs), conditions, details))
    report(dict(sorted(attacked.items())), costs)
    return 0


def figures_of(attacked: Mapping[int, Mapping[str, Any]], costs: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Returns the figures that the project aims at; none where a part of the benchmark was left out."""
    figures: dict[str, float] = {}
    if DEFAULT in attacked.get(200, {}):
        figures["membership_auc"] = attacked[200][DEFAULT]["auc"]
    if {DEFAULT, EXACT} <= costs.get(200, {}).keys():
        private, exact = costs[200][DEFAULT], costs[200][EXACT]
        lost = {label: 100 * (exact[label]["chosen"] - private[label]["chosen"]) for label in ("starters", "all tasks")}
        figures |= {"privacy_cost": max(lost.values())}
        figures |= {"privacy_cost_starters": lost["starters"], "privacy_cost_all_tasks": lost["all tasks"]}
    return figures
