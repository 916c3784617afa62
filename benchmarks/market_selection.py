"""How well a market of many learnwares is chosen from: `python -m benchmarks.selection --matrix FILE --probes FILE`.

The published table's columns (arXiv 2505.13425) on our learnwares: base, random, best single, per-task choice,
per-request choice, oracle, by domain; for tasks that have learnwares of their own, and for tasks that have none (leave
one task out: its learnwares and its probes are gone). Learnwares are ranked by specifications, made from train rows,
and by capabilities, measured on probe rows; `FILE` of `--matrix` holds what each answers right on test rows.

A task's score is its accuracy, and beside it the mean log-likelihood of the gold answer. The oracle is the learnware
(or base) that is best on one half of a task's rows, scored on the other half, and swapped; so is the best single one of
a domain. "Random" is the mean over the domain's learnwares. A choice whose cell was not measured counts as the worst
learnware of the task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import table
from benchmarks.rule_inputs import RuleInputs
from benchmarks.scores import BASE, TaskScores
from benchmarks.selection_rules import Offer, TaskRows, fit_rules
from benchmarks.tasks import DOMAINS, read_prompts, task_of
from router.ranking import Ranking
from router.selection import Selector
from router.settings import SelectionSettings
from specs.capability import Capability, ProbeScore
from specs.encoder import Encoder
from specs.index import Closeness
from specs.learnware import Learnware

TASK_ROWS = 200
"""Train rows that a task's owner is taken to have; unlabelled."""
BOOTSTRAP = 1000
BINS = 10

Vectors = NDArray[np.float32]
Values = NDArray[np.float64]

WORDINGS: dict[str, Callable[[str], str]] = {
    "helper": lambda bare: f"Could you help me with this?\n\n{bare}\n\nPlease answer as briefly as you can.",
    "exam": lambda bare: f"You are taking a test. Read the item and give the result only.\nItem: {bare}\nResult:",
    "plain": lambda bare: " ".join(bare.split()),
}
"""Other wordings of a task's prompts: their content in other words than the learnwares were trained with."""


@dataclass(frozen=True)
class Market:
    """Learnwares with their capabilities, and the tasks that were measured with all learnwares of their domain."""

    learnwares: list[Learnware]
    matrix: dict[str, TaskScores]
    probes: dict[str, TaskScores]
    domains: dict[str, str]
    """Of each task."""


class Texts(NamedTuple):
    """Encoded prompts of a task: the test rows of the matrix by wording, some train rows, and the probe rows."""

    test: dict[str, Vectors]
    train: Vectors
    probes: Vectors


def probe_score(own: TaskScores, system: str, rows: NDArray[np.int64] | None = None) -> ProbeScore:
    """A learnware's scores on a task's probe rows (or on those of `rows`)."""
    pick = np.arange(len(own.rows)) if rows is None else rows
    right, base = own.right[system][pick], own.right[BASE][pick]
    return ProbeScore(
        len(pick),
        float(right.mean()),
        float(own.among[system][pick].mean()),
        float(own.gold[system][pick].mean()),
        float((right >= base).mean()),
        float(base.mean()),
        float(own.among[BASE][pick].mean()),
        float(own.gold[BASE][pick].mean()),
    )


def with_capability(learnware: Learnware, probes: Mapping[str, TaskScores], seed: int | None = None) -> Learnware:
    """The learnware with what its probe rows say; `seed`: with a bootstrap sample of them, as another provider's
    measurement of an equal learnware would differ."""
    generator = None if seed is None else np.random.default_rng(seed)
    scores = {
        task: probe_score(
            entry,
            learnware.id,
            None if generator is None else generator.integers(0, len(entry.rows), len(entry.rows)),
        )
        for task, entry in probes.items()
        if learnware.id in entry.right
    }
    return replace(learnware, capability=Capability(learnware.base_model, "", "matrix", scores))


def make_market(
    learnwares: Sequence[Learnware], matrix: Mapping[str, TaskScores], probes: Mapping[str, TaskScores]
) -> Market:
    """Tasks that lack a cell of their domain, in either file, are left out."""
    ids = {domain: [one.id for one in learnwares if one.domain == domain] for domain in DOMAINS}
    complete = {
        task: domain
        for task in sorted(set(matrix) & set(probes))
        if (domain := task.split("-", 1)[0]) in ids
        and all(name in matrix[task].right and name in probes[task].right for name in [BASE, *ids[domain]])
    }
    kept = {task: probes[task] for task in complete}
    return Market(
        [with_capability(one, kept) for one in learnwares], {task: matrix[task] for task in complete}, kept, complete
    )


def encode_tasks(market: Market, data: Path, encoder: Encoder) -> dict[str, Texts]:
    texts = {}
    for task, scores in market.matrix.items():
        prompts = read_prompts(data, task_of(task), "test")
        whole = [prompts.whole[i] for i in scores.rows]
        bare = [prompts.bare[i] for i in scores.rows]
        views = {"whole": whole, "bare": bare} | {name: [word(one) for one in bare] for name, word in WORDINGS.items()}
        train = read_prompts(data, task_of(task), "train").whole
        probes = encoder.encode([train[i] for i in market.probes[task].rows])
        encoded = {name: encoder.encode(view) for name, view in views.items()}
        texts[task] = Texts(encoded, encoder.encode(train[:TASK_ROWS]), probes)
    return texts


class Chooser:
    """A selector over some learnwares, with and without capabilities."""

    def __init__(self, learnwares: Sequence[Learnware], encoder: Encoder, settings: SelectionSettings) -> None:
        self.ids = [one.id for one in learnwares]
        self.selector = Selector(learnwares, encoder, settings)
        self.ranking = Ranking(learnwares)
        means = [
            [view.weights @ view.points / view.weights.sum() for view in one.specification.views] for one in learnwares
        ]
        self._means = self.selector.metric.apply(np.stack([mean for views in means for mean in views]))
        self._starts = np.cumsum([0, *map(len, means)])[:-1]

    def nearest(self, vector: Vectors) -> Closeness:
        return self.selector.index.search(self.selector.metric.apply(vector), len(self.ids))

    def nearest_to_task(self, mean: Vectors) -> Closeness:
        squares = ((self._means - self.selector.metric.apply(mean)) ** 2).sum(1, dtype=np.float64)
        closeness = -np.minimum.reduceat(squares, self._starts) / 2
        order = np.argsort(-closeness, kind="stable")
        return Closeness(order, closeness[order])

    def best(self, nearest: Closeness) -> tuple[str, float]:
        """The choice by expected quality, and its probability to answer at least as well as the base model."""
        best = self.ranking.best(nearest, 1)
        return self.ids[int(best.owners[0])], best.at_least_base


class Columns(NamedTuple):
    """A task's scores by column, each (rows,): accuracy, and log-likelihood of the gold answer."""

    right: dict[str, Values]
    gold: dict[str, Values]


def cell(scores: TaskScores, system: str, domain_ids: Sequence[str]) -> tuple[Values, Values, bool]:
    """Rights and likelihoods of a system, those of the domain's worst where it was not measured."""
    if system in scores.right:
        return scores.right[system].astype(float), scores.gold[system], True
    worst = min(domain_ids, key=lambda name: float(scores.right[name].mean()))
    return scores.right[worst].astype(float), scores.gold[worst], False


def halves(rows: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    even = np.arange(rows) % 2 == 0
    return even, ~even


def by_halves(scores: TaskScores, names: Sequence[str], kind: str) -> Values:
    """The best of `names` on one half, scored on the other, and swapped."""
    table = scores.right if kind == "right" else scores.gold
    found = np.zeros(len(scores.rows))
    for fit, held in (halves(len(scores.rows)), halves(len(scores.rows))[::-1]):
        best = max(names, key=lambda name: float(table[name][fit].mean()))
        found[held] = table[best][held]
    return found


def best_single(market: Market, domain: str, names: Sequence[str], kind: str) -> dict[str, Values]:
    """By task: the one learnware that is best over the domain's tasks on one half of the rows, on the other half."""
    tasks = [task for task, found in market.domains.items() if found == domain]
    result = {task: np.zeros(len(market.matrix[task].rows)) for task in tasks}
    for side in (0, 1):

        def mean(name: str, side: int = side) -> float:
            return float(
                np.mean(
                    [
                        getattr(market.matrix[t], kind)[name][halves(len(market.matrix[t].rows))[side]].mean()
                        for t in tasks
                    ]
                )
            )

        best = max(names, key=mean)
        for task in tasks:
            held = halves(len(market.matrix[task].rows))[1 - side]
            result[task][held] = getattr(market.matrix[task], kind)[best][held]
    return result


class Measured(NamedTuple):
    """Scores by task, and what is known of single choices."""

    columns: dict[str, Columns]
    unseen: dict[str, Columns]
    wordings: dict[str, dict[str, Values]]
    """Rights of the per-request choice by task and wording."""
    confidence: list[tuple[float, bool]]
    """For each test row: the stated probability to do at least as well as the base, and whether that came true."""
    unmeasured: int
    """Choices whose cell was not measured."""
    rules: tuple[str, ...]
    """The other rules (`benchmarks.selection_rules`), which are columns too."""


def measure(
    market: Market,
    texts: Mapping[str, Texts],
    encoder: Encoder,
    settings: SelectionSettings,
    inputs: RuleInputs | None = None,
) -> Measured:
    """Everything but the resampled markets. `inputs`: for the rules that need them."""
    chooser = Chooser(market.learnwares, encoder, settings)
    probe_vectors = {task: one.probes for task, one in texts.items()}
    rules = fit_rules(Offer(market.learnwares, market.probes, chooser.selector, probe_vectors, encoder, inputs))
    columns: dict[str, Columns] = {}
    unseen: dict[str, Columns] = {}
    wordings: dict[str, dict[str, Values]] = {}
    confidence: list[tuple[float, bool]] = []
    unmeasured = 0
    for domain in sorted(set(market.domains.values())):
        ids = [one.id for one in market.learnwares if one.domain == domain]
        single = {kind: best_single(market, domain, ids, kind) for kind in ("right", "gold")}
        for task in (task for task, found in market.domains.items() if found == domain):
            scores = market.matrix[task]
            chosen = {name: choose(TaskRows(task, texts[task].train)) for name, choose in rules.task.items()}
            chosen["per task"] = chooser.best(chooser.nearest_to_task(texts[task].train.mean(0)))[0]
            columns[task] = Columns({}, {})
            for kind, columns_of in (("right", columns[task].right), ("gold", columns[task].gold)):
                cells = getattr(scores, kind)
                columns_of["base"] = np.asarray(cells[BASE], float)
                columns_of["random"] = np.mean([cells[name] for name in ids], axis=0)
                columns_of["best single"] = single[kind][task]
                columns_of["oracle"] = by_halves(scores, [BASE, *ids], kind)
            for rule, name in chosen.items():
                right, gold, known = cell(scores, name, ids)
                columns[task].right[rule], columns[task].gold[rule] = right, gold
                unmeasured += not known
            for rule, choose_each in rules.request.items():
                by_row = [cell(scores, name, ids) for name in choose_each(texts[task].test["whole"])]
                columns[task].right[rule] = np.array([found[0][row] for row, found in enumerate(by_row)])
                columns[task].gold[rule] = np.array([found[1][row] for row, found in enumerate(by_row)])
            wordings[task] = {}
            for wording, vectors in texts[task].test.items():
                picks = [chooser.best(chooser.nearest(vector)) for vector in vectors]
                cells = [cell(scores, name, ids) for name, _ in picks]
                rights = np.array([found[0][row] for row, found in enumerate(cells)])
                wordings[task][wording] = rights
                if wording == "whole":
                    columns[task].right["per request"] = rights
                    columns[task].gold["per request"] = np.array([found[1][row] for row, found in enumerate(cells)])
                    base = scores.right[BASE]
                    confidence += [
                        (picks[row][1], bool(rights[row] >= base[row])) for row in range(len(rights)) if cells[row][2]
                    ]
            unseen[task] = _unseen(market, task, texts[task], encoder, settings)
    return Measured(columns, unseen, wordings, confidence, unmeasured, (*rules.task, *rules.request))


def _unseen(market: Market, task: str, texts: Texts, encoder: Encoder, settings: SelectionSettings) -> Columns:
    """The same task when nobody has a learnware for it and nobody has probed it."""
    name = task.split("-", 1)[1]
    domain = market.domains[task]
    others = {other: scores for other, scores in market.probes.items() if other != task}
    left = [
        with_capability(one, others) for one in market.learnwares if not (one.domain == domain and name in one.tasks)
    ]
    ids = [one.id for one in left if one.domain == domain]
    chooser = Chooser(left, encoder, settings)
    scores = market.matrix[task]
    picked = chooser.best(chooser.nearest_to_task(texts.train.mean(0)))[0]
    columns = Columns({}, {})
    right, gold, _ = cell(scores, picked, ids)
    columns.right["per task"], columns.gold["per task"] = right, gold
    for kind, columns_of in (("right", columns.right), ("gold", columns.gold)):
        cells = getattr(scores, kind)
        columns_of["base"] = np.asarray(cells[BASE], float)
        columns_of["random"] = np.mean([cells[one] for one in ids], axis=0)
        columns_of["oracle"] = by_halves(scores, [BASE, *ids], kind)
    return columns


def resampled(market: Market, size: int, seed: int = 0) -> list[Learnware]:
    """`size` learnwares from those of the market: copies under names of their own, each with the capability that
    another drawing of the same probe rows gives. What a copy answers is what the original answers."""
    copies: list[Learnware] = []
    generator = np.random.default_rng(seed)
    for number in range(size):
        original = market.learnwares[number % len(market.learnwares)]
        if number < len(market.learnwares):
            copies.append(original)
            continue
        copy = with_capability(original, market.probes, seed=int(generator.integers(1 << 31)))
        copies.append(replace(copy, id=f"{original.id}.{number}"))
    return copies


def routed_at(
    market: Market, texts: Mapping[str, Texts], encoder: Encoder, settings: SelectionSettings, size: int
) -> dict[str, Values]:
    """Rights of the per-request choice among `size` resampled learnwares."""
    learnwares = resampled(market, size)
    original = {one.id: market.learnwares[number % len(market.learnwares)].id for number, one in enumerate(learnwares)}
    chooser = Chooser(learnwares, encoder, settings)
    found = {}
    for task, scores in market.matrix.items():
        ids = [one.id for one in market.learnwares if one.domain == market.domains[task]]
        picks = [original[chooser.best(chooser.nearest(vector))[0]] for vector in texts[task].test["whole"]]
        found[task] = np.array([cell(scores, name, ids)[0][row] for row, name in enumerate(picks)])
    return found


class Recovery(NamedTuple):
    """(chosen - random) / (oracle - random) over some tasks, with its 95 % interval, and by which score."""

    value: float
    low: float
    high: float
    score: str


def recovery(columns: Sequence[Columns], column: str, seed: int = 0) -> Recovery:
    """By accuracy where oracle and random differ significantly, else by likelihood; 95 % intervals by bootstrap."""
    generator = np.random.default_rng(seed)
    picks = [
        [generator.integers(0, len(one.right["base"]), len(one.right["base"])) for one in columns]
        for _ in range(BOOTSTRAP)
    ]

    def gaps(kind: str, rows: Sequence[NDArray[np.int64]] | None, name: str) -> float:
        tables = [getattr(one, kind) for one in columns]
        return float(
            np.mean(
                [
                    (table[name] - table["random"])[slice(None) if rows is None else rows[i]].mean()
                    for i, table in enumerate(tables)
                ]
            )
        )

    differs = np.quantile([gaps("right", rows, "oracle") for rows in picks], 0.025) > 0
    kind = "right" if differs else "gold"
    ratios = [gaps(kind, rows, column) / gaps(kind, rows, "oracle") for rows in picks]
    low, high = np.quantile(ratios, [0.025, 0.975])
    value = gaps(kind, None, column) / gaps(kind, None, "oracle")
    return Recovery(value, float(low), float(high), "accuracy" if differs else "likelihood")


def calibration(confidence: Sequence[tuple[float, bool]]) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error over `BINS` bins of equally many rows, and the bins: stated, observed, rows."""
    rows = np.random.default_rng(0).permutation(np.array(confidence, float))  # equal ones must not lie by outcome
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    parts = [part for part in np.array_split(rows, BINS) if len(part)]
    bins = [(float(part[:, 0].mean()), float(part[:, 1].mean()), len(part)) for part in parts]
    total = sum(count for *_, count in bins)
    return sum(count * abs(stated - observed) for stated, observed, count in bins) / total, bins


def figures(
    market: Market, found: Measured, at: Mapping[int, Mapping[str, Values]]
) -> tuple[dict[str, float], dict[str, Recovery]]:
    """Flat figures, and every recovery with its interval."""
    by_domain = {d: [t for t, one in market.domains.items() if one == d] for d in sorted(set(market.domains.values()))}
    recoveries = {}
    for domain, tasks in by_domain.items():
        recoveries[f"recovery_{domain}"] = recovery([found.columns[t] for t in tasks], "per task")
        recoveries[f"recovery_{domain}_per_request"] = recovery([found.columns[t] for t in tasks], "per request")
        recoveries[f"recovery_unseen_{domain}"] = recovery([found.unseen[t] for t in tasks], "per task")
        for rule in (*found.rules, "best single"):
            recoveries[f"recovery_{domain} by {rule}"] = recovery([found.columns[t] for t in tasks], rule)
    unseen = [value.value for name, value in recoveries.items() if name.startswith("recovery_unseen_")]
    oracle = np.mean([one.right["oracle"].mean() for one in found.columns.values()])

    def share(rights: Mapping[str, Values]) -> float:
        return float(np.mean([values.mean() for values in rights.values()]) / oracle)

    flat = {name: value.value for name, value in recoveries.items() if " by " not in name}
    flat["recovery_unseen"] = float(np.mean(unseen))
    flat["score_vs_oracle_n100"] = share({t: one.right["per request"] for t, one in found.columns.items()})
    flat |= {f"score_vs_oracle_n{size}": share(rights) for size, rights in at.items()}
    for wording in ("bare", *WORDINGS):
        flat[f"score_vs_oracle_{wording}"] = share({t: rights[wording] for t, rights in found.wordings.items()})
    flat["ece"] = calibration(found.confidence)[0]
    return flat, recoveries


def tables(market: Market, found: Measured, flat: Mapping[str, float], recoveries: Mapping[str, Recovery]) -> str:
    """What is printed: scores by domain and column, both ways; recoveries; the figures."""
    lines = []
    columns = ("base", "random", "best single", *found.rules, "per task", "per request", "oracle")
    for kind, title, scale in (("right", "accuracy, %", 100), ("gold", "log-likelihood of the gold answer", 1)):
        rows = []
        for domain in sorted(set(market.domains.values())):
            tasks = [t for t, one in market.domains.items() if one == domain]
            means = [scale * np.mean([getattr(found.columns[t], kind)[c].mean() for t in tasks]) for c in columns]
            rows.append([f"{domain} ({len(tasks)})", *(f"{mean:.2f}" for mean in means)])
        lines.append(table([title, *columns], rows))
    shown = [
        [name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}", one.score] for name, one in recoveries.items()
    ]
    lines.append(table(["(chosen - random) / (oracle - random)", "value", "95 %", "score"], shown))
    lines.append(table(["figure", "value"], [[name, f"{value:.4f}"] for name, value in flat.items()]))
    return "\n\n".join(lines)
