"""The one rule of the choice: the candidate that is expected to answer best answers.

With p(t | x) the probability that request x is of task t (`router.task_model`), the base model's home among the
tasks, and q(i, t) the quality of learnware i on t, the learnware with the largest

    Σ_t p(t | x) q(i, t)

answers; the base model is a candidate like the others. Qualities are told against the base model's, in probability:

- *measured on a task* (`specs.capability`): its gain over the base model there, shrunk towards none, since a few probe
  rows say little. Gains are in the gold answer's probability among those to choose from, and in its log-likelihood: on
  a few rows that tells equals apart with less noise, and where any answer may be given, it is all that does;
- *on its own tasks, unmeasured*: the average learnware's gain on its own; the purpose that a provider made it for is
  worth something even when nobody has measured it;
- *on the base model's home*: minus its measured loss there (`specs.off_task`), by the kind of request: everyday
  prompts, free questions of its domain, other asks on its material. Where nobody has measured it, it is taken to lose
  most of it, as learnwares that label do;
- *on others' tasks, unmeasured*: as on everyday prompts, but neither gain nor loss where the answers are the same (the
  same labels; letters in the same domain): a learnware that tells the sentiment of headlines tells that of tweets about
  as well.

Where users' feedback says how good a learnware is on a task (`specs.evidence`), that is its gain there: a posterior
that has the above as its prior. Tasks learnt from feedback are measured in the same sense.

A table of all tasks and all learnwares would take 800 MB at 10,000 of each, so only measured tasks have a row; the rest
is told by a learnware's own tasks and its losses on everyday prompts.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.index.index import Closeness
from router.task_model import Probabilities, class_of, own_tasks
from specs.capability import ProbeScore, harm
from specs.evidence import Evidence
from specs.home import OTHER_ASKS, QUESTIONS
from specs.learnware import Learnware
from specs.off_task import LIKELIHOOD_WEIGHT, Kind

SHRINKAGE_ROWS = 4.0
"""Rows without a gain that are added to the measured ones when a gain over the base model is shrunk."""
USUAL_GAIN = 0.25
"""Gain of a learnware on its own tasks, in probability, where nobody was measured: the mean of the starters' accuracies
less the base model's is 0.3."""
PRIOR_AT_LEAST_BASE = (8.0, 1.0)
"""Rows answered at least as well as the base model, and rows answered worse, that are added to those counted on a
learnware's own tasks."""
NO_KIND = 0
"""Number for learnwares whose answers are of no kind that others share."""
BASE_UNMEASURED = 0.5
"""The base model's quality on a task that nobody measured; only differences decide, so it is for show."""


class Best(NamedTuple):
    """The learnwares that are expected to answer best, in that order.

    `owners` are their numbers, `qualities` their expected qualities, and `matches` the probabilities that the request
    asks for something that they answer better than the base model. `at_least_base` is the probability that the first
    one answers at least as well as the base model, `base` the base model's expected quality.
    """

    owners: NDArray[np.int64]
    qualities: NDArray[np.float64]
    matches: NDArray[np.float64]
    at_least_base: float
    base: float


class _Rows(NamedTuple):
    """Gains, and probabilities to be at least as good as the base model: (measured classes, learnwares) each."""

    gains: NDArray[np.float64]
    at_least_base: NDArray[np.float64]


class Ranking:
    """Ranks learnwares by expected quality; immutable. Learnwares are numbered in the order in which they are given,
    those that `changed` adds take the next numbers; classes as in the `TaskModel` of the same learnwares."""

    def __init__(
        self,
        learnwares: Sequence[Learnware],
        classes: Sequence[str],
        home: Sequence[str],
        evidence: Evidence | None = None,
        removed: Sequence[int] = (),
    ) -> None:
        """Makes the ranking. `classes` and `home` name the tasks and the parts of the home, in the order of their
        probabilities; `evidence` is what feedback says, and `removed` are the numbers of learnwares that were removed
        since they got them."""
        self._home = tuple(home)
        self._evidence = evidence
        self._learnwares: tuple[Learnware, ...] = ()
        self._alive = np.zeros(0, bool)
        at_home = [
            gain(one.capability.probes[task])
            for one in learnwares
            if one.capability is not None
            for task in own_tasks(one)
            if task in one.capability.probes
        ]
        self._usual = float(np.mean(at_home)) if at_home else USUAL_GAIN
        self._append(learnwares, removed, classes)

    def changed(self, added: Sequence[Learnware], removed: Sequence[int], classes: Sequence[str]) -> "Ranking":
        """Returns this ranking without the learnwares of some numbers and with others. The average learnware's gain on
        its own tasks stays as it was."""
        other = copy.copy(self)
        other._append(added, removed, classes)  # noqa: SLF001 (an object of this very class)
        return other

    def expect(self, probabilities: Probabilities) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Returns the expected quality of every learnware (n,), -∞ for those that were removed; `matches` (n,) as in
        `Best`; and the expected quality of the base model."""
        tasks, home = probabilities
        base = float(self._base @ tasks + home.sum())
        unmeasured = tasks[self._unmeasured].sum()
        measured = tasks[self._measured]
        quality = base + measured @ self._rows.gains - unmeasured * self._off - home @ self._losses
        akin = np.bincount(self._kind_of_class, weights=tasks * self._is_unmeasured, minlength=self._kinds)
        akin[NO_KIND] = 0.0
        quality += self._off * akin[self._kind_of_learnware]
        matches = measured @ (self._rows.gains > 0)
        own = tasks[self._own_class]
        given = np.where(self._kind_of_learnware == NO_KIND, self._off, 0.0)  # what `akin` has not given back already
        np.add.at(quality, self._own_learnware, own * (self._usual + given[self._own_learnware]))
        np.add.at(matches, self._own_learnware, own if self._usual > 0 else 0.0)
        quality[~self._alive] = -np.inf
        return quality, matches, base

    def best(self, probabilities: Probabilities, nearest: Closeness, top: int) -> Best:
        """Returns the `top` learnwares; among equals the nearer one comes first."""
        quality, matches, base = self.expect(probabilities)
        closeness = np.full(len(quality), -np.inf)
        closeness[nearest.owners] = nearest.values
        shown = min(max(top, 1), int(self._alive.sum()))
        bound = np.partition(quality, -shown)[-shown]
        among = np.flatnonzero(quality >= bound)  # more than `shown` where equals stand at the bound
        order = among[np.lexsort((-closeness[among], -quality[among]))][:shown]
        return Best(order, quality[order], matches[order], self.at_least_base(int(order[0]), probabilities), base)

    def at_least_base(self, learnware: int, probabilities: Probabilities) -> float:
        """Returns the probability that a learnware answers at least as well as the base model."""
        tasks, home = probabilities
        better, worse = PRIOR_AT_LEAST_BASE
        own = tasks[self._own_class[self._own_learnware == learnware]].sum()
        kind = self._kind_of_learnware[learnware]
        akin = tasks[self._is_unmeasured & (self._kind_of_class == kind)].sum() if kind != NO_KIND else own
        off = tasks[self._unmeasured].sum() - akin
        known = float(tasks[self._measured] @ self._rows.at_least_base[:, learnware])
        kept = 1 - self._losses[:, learnware]
        return float(known + akin * better / (better + worse) + off * (1 - self._off[learnware]) + home @ kept)

    def _append(self, learnwares: Sequence[Learnware], removed: Sequence[int], classes: Sequence[str]) -> None:
        """Puts learnwares behind those that are there, in new arrays: copies of this ranking share the old ones."""
        self._alive = np.concatenate([self._alive, np.ones(len(learnwares), bool)])
        self._alive[list(removed)] = False
        self._learnwares += tuple(learnwares)
        tasks_of = [frozenset(name.split("+")) for name in classes]
        probed = {task for one in self._learnwares if one.capability is not None for task in one.capability.probes}
        taught = {} if self._evidence is None else self._evidence.posteriors
        is_probed = np.array([bool(tasks & probed) for tasks in tasks_of], bool)
        is_measured = is_probed | np.array([name in taught for name in classes], bool)
        self._measured, self._unmeasured = np.flatnonzero(is_measured), np.flatnonzero(~is_measured)
        self._is_unmeasured = ~is_measured
        self._number_kinds(classes)
        self._off = np.array([harm(one.capability, Kind.EVERYDAY) for one in self._learnwares])
        self._losses = np.array([[_loss(one, part) for one in self._learnwares] for part in self._home]).reshape(
            len(self._home), len(self._learnwares)
        )
        self._rows, self._base = self._measured_rows([tasks_of[number] for number in self._measured], len(classes))
        self._apply_evidence(classes, is_probed)
        naming: dict[str, list[int]] = {}
        for number, tasks in enumerate(tasks_of):
            for task in tasks:
                naming.setdefault(task, []).append(number)
        pairs = {
            (number, i)
            for i, one in enumerate(self._learnwares)
            for task in own_tasks(one)
            for number in naming.get(task, ())
            if not is_measured[number]
        }
        ordered = sorted(pairs)
        self._own_class = np.array([number for number, _ in ordered], np.int64)
        self._own_learnware = np.array([i for _, i in ordered], np.int64)

    def _number_kinds(self, classes: Sequence[str]) -> None:
        """Numbers the kinds of answers; a class has the kind of its first learnware."""
        numbers: dict[object, int] = {None: NO_KIND}
        kinds = [numbers.setdefault(_answered_with(one), len(numbers)) for one in self._learnwares]
        of_class: dict[str, int] = {}
        for one, kind in zip(self._learnwares, kinds, strict=True):
            of_class.setdefault(class_of(one), kind)
        self._kinds = len(numbers)
        self._kind_of_learnware = np.array(kinds, np.int64)
        self._kind_of_class = np.array([of_class.get(name, NO_KIND) for name in classes], np.int64)

    def _measured_rows(self, measured: Sequence[frozenset[str]], classes: int) -> tuple[_Rows, NDArray[np.float64]]:
        """Returns the rows of measured classes, and the base model's quality on every class."""
        better, worse = PRIOR_AT_LEAST_BASE
        base = np.full(classes, BASE_UNMEASURED)
        gains = np.empty((len(measured), len(self._learnwares)))
        at_least = np.empty(gains.shape)
        for row, tasks in enumerate(measured):
            bases = []
            for i, one in enumerate(self._learnwares):
                probes = (
                    []
                    if one.capability is None
                    else [one.capability.probes[task] for task in tasks if task in one.capability.probes]
                )
                if probes:
                    gains[row, i] = np.mean([gain(probe) for probe in probes])
                    at_least[row, i] = np.mean(
                        [(p.at_least_base * p.rows + better) / (p.rows + better + worse) for p in probes]
                    )
                    bases += [probe.base_probability for probe in probes]
                elif tasks & set(own_tasks(one)):
                    gains[row, i], at_least[row, i] = self._usual, better / (better + worse)
                else:
                    gains[row, i], at_least[row, i] = -self._off[i], 1 - self._off[i]
            if bases:
                base[self._measured[row]] = float(np.mean(bases))
        return _Rows(gains, at_least), base

    def _apply_evidence(self, classes: Sequence[str], is_probed: NDArray[np.bool_]) -> None:
        """Puts what feedback says into the rows of the measured classes. Where feedback alone measured, learnwares that
        answer in the same way keep neither gain nor loss, as on unmeasured tasks."""
        if self._evidence is None:
            return
        numbers = {
            one.id: i for i, one in enumerate(self._learnwares)
        }  # of two versions the newer one, which comes last
        learnt = {one.name: one.base for one in self._evidence.tasks}
        for row, number in enumerate(self._measured):
            if classes[number] in learnt:
                self._base[number] = learnt[classes[number]]
            kind = self._kind_of_class[number]
            if not is_probed[number] and kind != NO_KIND:
                akin = (self._kind_of_learnware == kind) & (self._rows.gains[row] < 0)
                self._rows.gains[row, akin] = 0.0
            for name, posterior in self._evidence.posteriors.get(classes[number], {}).items():
                if name in numbers:
                    self._rows.gains[row, numbers[name]] = posterior.gain
                    self._rows.at_least_base[row, numbers[name]] = posterior.at_least_base


def _answered_with(learnware: Learnware) -> object:
    """Returns a value that is equal for learnwares whose answers are of one kind; None where the answers tell
    nothing."""
    answers = learnware.specified.answers
    if answers is None or answers.kind not in ("label", "letter"):
        return None
    return frozenset(answers.labels) if answers.kind == "label" else ("letter", learnware.domain)


def _loss(learnware: Learnware, part: str) -> float:
    """Returns the expected loss of a learnware on a part of the home."""
    if part == OTHER_ASKS:
        return harm(learnware.capability, Kind.MATERIAL)
    of_its_domain = part == learnware.domain + QUESTIONS
    return harm(learnware.capability, Kind.DOMAIN if of_its_domain else Kind.EVERYDAY)


def gain(probe: ProbeScore) -> float:
    """Returns a learnware's measured gain over the base model, in the gold answer's probability and log-likelihood,
    shrunk by `SHRINKAGE_ROWS`."""
    probability = probe.probability - probe.base_probability
    likelihood = probe.log_likelihood - probe.base_log_likelihood
    return (probability + LIKELIHOOD_WEIGHT * likelihood) * probe.rows / (probe.rows + SHRINKAGE_ROWS)
