"""How well a market of many learnwares is chosen from: `python -m benchmarks.market --matrix FILE --probes FILE`.

The published table's columns (arXiv 2505.13425) on our learnwares: base, random, best single, per-task choice,
per-request choice, oracle, by domain; for tasks that have learnwares of their own, and for tasks that have none (leave
one task out: its learnwares and its probes are gone). Learnwares are ranked by specifications, made from train rows,
and by capabilities, measured on probe rows; `FILE` of `--matrix` holds what each answers right on test rows.

A task's score is its accuracy, and beside it the mean log-likelihood of the gold answer. The oracle is the learnware
(or base) that is best on one half of a task's rows, scored on the other half, and swapped; so is the best single one of
a domain. With few rows a half is little to choose by, and a choice by more probe rows can be better than this oracle;
"in hindsight" (chosen and scored on the same rows) is above what any choice can reach: the truth lies between them.
"Random" is the mean over the domain's learnwares. A choice whose cell was not measured counts as the worst learnware of
the task.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.scores import BASE, TaskScores
from benchmarks.common.tasks import DOMAINS, read_prompts, task_of
from benchmarks.market.rule_inputs import RuleInputs
from benchmarks.market.rules import Offer, TaskRows, fit_rules
from router.selection import Selector
from router.settings import SelectionSettings
from specs.capability import Capability, ProbeScore
from specs.encoding.encoder import Encoder
from specs.learnware import Learnware

TASK_ROWS = 200
"""A task's owner is assumed to have so many unlabelled train rows."""
SUBSETS = 8
"""Markets smaller than the measured one are drawn so many times."""

Vectors = NDArray[np.float32]
Values = NDArray[np.float64]

WORDINGS: dict[str, Callable[[str], str]] = {
    "helper": lambda bare: f"Could you help me with this?\n\n{bare}\n\nPlease answer as briefly as you can.",
    "exam": lambda bare: f"You are taking a test. Read the item and give the result only.\nItem: {bare}\nResult:",
    "plain": lambda bare: " ".join(bare.split()),
}
"""Other wordings of a task's prompts: their content in other words than the learnwares were trained with."""


@dataclass(frozen=True)
class MeasuredMarket:
    """Learnwares with their capabilities, and the tasks on which all of a domain's learnwares were measured."""

    learnwares: list[Learnware]
    matrix: dict[str, TaskScores]
    probes: dict[str, TaskScores]
    domains: dict[str, str]
    """The domain of each task."""


class Texts(NamedTuple):
    """Encoded prompts of a task: the test rows of the matrix by wording, some train rows, and the probe rows."""

    test: dict[str, Vectors]
    train: Vectors
    probes: Vectors


def probe_score(own: TaskScores, system: str, rows: NDArray[np.int64] | None = None) -> ProbeScore:
    """Returns a learnware's scores on a task's probe rows, or on those of `rows`."""
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
    """Returns the learnware with the capability that its probe rows give. With `seed` it is that of a bootstrap sample
    of them, as another provider's measurement of an equal learnware would differ."""
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
) -> MeasuredMarket:
    """Returns the market of both score matrices. Learnwares that were measured nowhere are left out, and so are tasks
    that lack a cell of their domain in a file."""
    learnwares = [
        one
        for one in learnwares
        if all(any(one.id in entry.right for entry in scores.values()) for scores in (matrix, probes))
    ]
    ids = {domain: [one.id for one in learnwares if one.domain == domain] for domain in DOMAINS}
    complete = {
        task: domain
        for task in sorted(set(matrix) & set(probes))
        if (domain := task.split("-", 1)[0]) in ids
        and all(name in matrix[task].right and name in probes[task].right for name in [BASE, *ids[domain]])
    }
    kept = {task: probes[task] for task in complete}
    return MeasuredMarket(
        [with_capability(one, kept) for one in learnwares], {task: matrix[task] for task in complete}, kept, complete
    )


def encode_tasks(market: MeasuredMarket, data: Path, encoder: Encoder) -> dict[str, Texts]:
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


class MarketChooser:
    """The router's choice among some learnwares; `BASE` names the base model."""

    def __init__(self, learnwares: Sequence[Learnware], encoder: Encoder, settings: SelectionSettings) -> None:
        self.selector = Selector(learnwares, encoder, settings)

    def best(self, vector: Vectors) -> tuple[str, float]:
        """Returns the choice for a request and its probability to answer at least as well as the base model."""
        choice = self.selector.choose_embedded(vector, 1)
        return (BASE, 1.0) if choice.learnware_id is None else (choice.learnware_id, choice.confidence)

    def best_for_task(self, mean: Vectors) -> str:
        """Returns the choice for a task, by the mean of its rows."""
        return self.selector.choose_task(mean, top=1).learnware_id or BASE


class Columns(NamedTuple):
    """A task's scores by column, each (rows,): accuracy, and log-likelihood of the gold answer."""

    right: dict[str, Values]
    gold: dict[str, Values]


def cell(scores: TaskScores, system: str, domain_ids: Sequence[str]) -> tuple[Values, Values, bool]:
    """Returns a system's rights and likelihoods, or those of the domain's worst where it was not measured."""
    if system in scores.right:
        return scores.right[system].astype(float), scores.gold[system], True
    worst = min(domain_ids, key=lambda name: float(scores.right[name].mean()))
    return scores.right[worst].astype(float), scores.gold[worst], False


def halves(rows: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    even = np.arange(rows) % 2 == 0
    return even, ~even


def by_halves(scores: TaskScores, names: Sequence[str], kind: str) -> Values:
    """Returns the rows' scores by the best of `names` on one half, scored on the other half, and swapped. Among those
    with equally many right rows the likeliest counts, since half of a few rows leaves many equals."""
    table = scores.right if kind == "right" else scores.gold
    found = np.zeros(len(scores.rows))
    for fit, held in (halves(len(scores.rows)), halves(len(scores.rows))[::-1]):
        best = max(names, key=lambda name: (float(table[name][fit].mean()), float(scores.gold[name][fit].mean())))
        found[held] = table[best][held]
    return found


def in_hindsight(scores: TaskScores, names: Sequence[str], kind: str) -> Values:
    """Returns the scores of the best of `names` on the very rows it is scored on. No choice could have been better, so
    this exceeds the oracle by as much as chance favours one of many."""
    table = scores.right if kind == "right" else scores.gold
    return np.asarray(table[max(names, key=lambda name: float(table[name].mean()))], float)


def best_single(market: MeasuredMarket, domain: str, names: Sequence[str], kind: str) -> dict[str, Values]:
    """Returns by task the scores of the one learnware that is best over the domain's tasks on one half of the rows,
    scored on the other half."""
    tasks = [task for task, found in market.domains.items() if found == domain]
    result = {task: np.zeros(len(market.matrix[task].rows)) for task in tasks}
    for side in (0, 1):

        def mean(name: str, side: int = side) -> tuple[float, float]:
            cells = [(market.matrix[t], halves(len(market.matrix[t].rows))[side]) for t in tasks]
            value, likelihood = (
                float(np.mean([getattr(scores, table)[name][half].mean() for scores, half in cells]))
                for table in (kind, "gold")
            )
            return value, likelihood

        best = max(names, key=mean)
        for task in tasks:
            held = halves(len(market.matrix[task].rows))[1 - side]
            result[task][held] = getattr(market.matrix[task], kind)[best][held]
    return result


class MarketScores(NamedTuple):
    """The scores of every column by task, and the record of single choices."""

    columns: dict[str, Columns]
    unseen: dict[str, Columns]
    wordings: dict[str, dict[str, Values]]
    """Whether the choice per request is right, by task and wording."""
    confidence: list[tuple[float, bool]]
    """For each test row that a learnware answers: the stated probability to do at least as well as the base, and
    whether that came true."""
    unmeasured: int
    """Number of choices whose cell was not measured."""
    rules: tuple[str, ...]
    """Names of the other rules (`benchmarks.market.rules`), which are columns too."""


def measure(
    market: MeasuredMarket,
    texts: Mapping[str, Texts],
    encoder: Encoder,
    settings: SelectionSettings,
    inputs: RuleInputs | None = None,
) -> MarketScores:
    """Scores every column on every task, but for resampled markets. `inputs` serves the rules that need them."""
    chooser = MarketChooser(market.learnwares, encoder, settings)
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
            chosen["per task"] = chooser.best_for_task(texts[task].train.mean(0))
            columns[task] = Columns({}, {})
            for kind, columns_of in (("right", columns[task].right), ("gold", columns[task].gold)):
                cells = getattr(scores, kind)
                columns_of["base"] = np.asarray(cells[BASE], float)
                columns_of["random"] = np.mean([cells[name] for name in ids], axis=0)
                columns_of["best single"] = single[kind][task]
                columns_of["oracle"] = by_halves(scores, [BASE, *ids], kind)
                columns_of["in hindsight"] = in_hindsight(scores, [BASE, *ids], kind)
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
                picks = [chooser.best(vector) for vector in vectors]
                cells = [cell(scores, name, ids) for name, _ in picks]
                rights = np.array([found[0][row] for row, found in enumerate(cells)])
                wordings[task][wording] = rights
                if wording == "whole":
                    columns[task].right["per request"] = rights
                    columns[task].gold["per request"] = np.array([found[1][row] for row, found in enumerate(cells)])
                    base = scores.right[BASE]
                    confidence += [
                        (picks[row][1], bool(rights[row] >= base[row]))
                        for row in range(len(rights))
                        if cells[row][2] and picks[row][0] != BASE
                    ]
            unseen[task] = _unseen(market, task, texts[task], encoder, settings)
    return MarketScores(columns, unseen, wordings, confidence, unmeasured, (*rules.task, *rules.request))


def _unseen(market: MeasuredMarket, task: str, texts: Texts, encoder: Encoder, settings: SelectionSettings) -> Columns:
    """Returns a task's scores when no learnware was made for it and it was not probed."""
    name = task.split("-", 1)[1]
    domain = market.domains[task]
    others = {other: scores for other, scores in market.probes.items() if other != task}
    left = [
        with_capability(one, others) for one in market.learnwares if not (one.domain == domain and name in one.tasks)
    ]
    ids = [one.id for one in left if one.domain == domain]
    chooser = MarketChooser(left, encoder, settings)
    scores = market.matrix[task]
    picked = chooser.best_for_task(texts.train.mean(0))
    columns = Columns({}, {})
    columns.right["per task"], columns.gold["per task"], _ = cell(scores, picked, ids)
    by_row = [cell(scores, chooser.best(vector)[0], ids) for vector in texts.test["whole"]]
    columns.right["per request"] = np.array([found[0][row] for row, found in enumerate(by_row)])
    columns.gold["per request"] = np.array([found[1][row] for row, found in enumerate(by_row)])
    for kind, columns_of in (("right", columns.right), ("gold", columns.gold)):
        cells = getattr(scores, kind)
        columns_of["base"] = np.asarray(cells[BASE], float)
        columns_of["random"] = np.mean([cells[one] for one in ids], axis=0)
        columns_of["oracle"] = by_halves(scores, [BASE, *ids], kind)
    return columns


def resampled(market: MeasuredMarket, size: int, seed: int = 0) -> list[tuple[Learnware, str]]:
    """Returns `size` learnwares, each with the name of the one in the market whose answers it gives. A smaller market
    is a random part of the measured one; a larger one also has copies under other names, each with the capability that
    another drawing of the same probe rows gives."""
    generator = np.random.default_rng(seed)
    count = len(market.learnwares)
    if size <= count:
        return [
            (market.learnwares[i], market.learnwares[i].id)
            for i in sorted(generator.choice(count, size, replace=False))
        ]
    offered = [(one, one.id) for one in market.learnwares]
    for number in range(count, size):
        original = market.learnwares[number % count]
        copy = with_capability(original, market.probes, seed=int(generator.integers(1 << 31)))
        offered.append((replace(copy, id=f"{original.id}.{number}"), original.id))
    return offered


class Offered(NamedTuple):
    """Scores in a market of some size, by task: of the choice per request, and of the best learnware on offer."""

    rights: dict[str, Values]
    oracle: dict[str, Values]


def routed_at(
    market: MeasuredMarket, texts: Mapping[str, Texts], encoder: Encoder, settings: SelectionSettings, size: int
) -> Offered:
    """Returns the scores in a market of `size`, the mean over some drawings where it is a part of the measured one."""
    drawings = [
        _routed(market, texts, encoder, settings, resampled(market, size, seed))
        for seed in range(SUBSETS if size < len(market.learnwares) else 1)
    ]
    return Offered(
        {task: np.mean([one.rights[task] for one in drawings], axis=0) for task in market.matrix},
        {task: np.mean([one.oracle[task] for one in drawings], axis=0) for task in market.matrix},
    )


def _routed(
    market: MeasuredMarket,
    texts: Mapping[str, Texts],
    encoder: Encoder,
    settings: SelectionSettings,
    offered: Sequence[tuple[Learnware, str]],
) -> Offered:
    original = {one.id: name for one, name in offered} | {BASE: BASE}
    chooser = MarketChooser([one for one, _ in offered], encoder, settings)
    rights, oracle = {}, {}
    for task, scores in market.matrix.items():
        domain = market.domains[task]
        ids = [one.id for one in market.learnwares if one.domain == domain]
        picks = [original[chooser.best(vector)[0]] for vector in texts[task].test["whole"]]
        rights[task] = np.array([cell(scores, name, ids)[0][row] for row, name in enumerate(picks)])
        here = sorted({name for one, name in offered if one.domain == domain})
        oracle[task] = by_halves(scores, [BASE, *here], "right")
    return Offered(rights, oracle)
