"""Which learnware answers best what looks like this: nearness says to which tasks a request may belong, measured
capabilities say who is good at them.

With p(t | x) the probability that request x is of task t, and q(i, t) learnware i's quality on t, the learnware with
the largest

    Σ_t p(t | x) q(i, t)

is chosen. A task is what learnwares' cards name; where it lies is told by the specifications of the learnwares that
name it alone. p falls with the squared distance d² to a task's nearest such specification (`specs.index`) like
Student's kernel, (1 + d² / 2 r)^-r: what lies at home belongs there, and what is far from all tasks belongs a little
to many of them, where an exponential would give all to the nearest.

Where a learnware was measured (`specs.capability`), its quality is its gain over the base model there, shrunk towards
none: a few probe rows say little. Gains are in the gold answer's probability among those to choose from, and in its
log-likelihood: on a few rows that tells equals apart with less noise, and where any answer may be given (a number), it
is all that does. On other tasks it counts as a little less than the base model does, on its own ones as the average
learnware does on its own: what a provider made it for is worth something even when nobody has looked. The base model's
gain is 0; where nobody's is larger, it answers.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.capability import ProbeScore
from specs.index import Closeness
from specs.learnware import Learnware

REQUEST_TAIL = 20.0
"""How fast the probabilities of tasks fall for a single request; r above. Larger is better for prompts without their
instruction. This, the next one and `LIKELIHOOD_WEIGHT` were chosen on probe rows alone: one half of them ranked and the
other half judged, and tasks left out in turn."""
TASK_TAIL = 2.0
"""The same for a whole task, given by a mean, which scatters less than requests do. Smaller is better for tasks that
nobody has measured, until tasks that were measured are no longer told apart."""
LIKELIHOOD_WEIGHT = 0.2
"""What one nat of a task's mean log-likelihood counts, in probability."""
SHRINKAGE_ROWS = 4.0
"""A gain over the base model counts as if that many more rows had shown none."""
ELSEWHERE = 0.02
"""What a learnware is taken to lose against the base model on tasks that are not its own, where nobody has looked."""
NEGLIGIBLE = 1e-6
"""Tasks that are less probable change no expectation that is shown."""
PRIOR_AT_LEAST_BASE = (8.0, 1.0)
"""Rows answered at least as well as the base model, and rows answered worse, that are added to what was counted."""


class Expected(NamedTuple):
    """For one request: expected quality of every learnware (n,), and p(t | x) by task (t,)."""

    quality: NDArray[np.float64]
    tasks: NDArray[np.float64]


class Best(NamedTuple):
    """The learnwares that are expected to answer best, the first one first, what is expected of each, and the first
    one's probability to answer at least as well as the base model; what is expected of the base model."""

    owners: NDArray[np.int64]
    qualities: NDArray[np.float64]
    at_least_base: float
    base: float


class Ranking:
    """An immutable table of learnwares × tasks. Learnwares are numbered in the order in which they are given;
    those that `changed` adds take the next numbers."""

    def __init__(self, learnwares: Sequence[Learnware]) -> None:
        self.tasks: tuple[str, ...] = ()
        self._base = np.zeros(0)
        self._gains, self._at_least_base = np.zeros((0, 0)), np.zeros((0, 0))  # tasks × learnwares
        self._home = np.zeros(0, np.int64)
        self._alive = np.zeros(0, bool)
        at_home = [
            gain(one.capability.probes[task])
            for one in learnwares
            for task in (_own_tasks(one) if one.capability is not None else ())
            if one.capability is not None and task in one.capability.probes
        ]
        self._usual = float(np.mean(at_home)) if at_home else 0.0
        self.any_measured = False
        self._append(learnwares, ())

    def changed(self, added: Sequence[Learnware], removed: Sequence[int]) -> "Ranking":
        """This table without the learnwares of some numbers and with others. What the average learnware gains at home
        stays as it was."""
        other = copy.copy(self)
        other._append(added, removed)  # noqa: SLF001 (an object of this very class)
        return other

    def expect(self, nearest: Closeness, tail: float) -> Expected:
        """What is expected of every learnware for a request (`tail` is `REQUEST_TAIL`) or a task (`TASK_TAIL`) with
        these nearest specifications; -∞ of those that were removed."""
        logits = np.full(len(self.tasks), -np.inf)
        homes = self._home[nearest.owners]
        far = np.maximum(-nearest.values[homes >= 0], 0.0)
        np.maximum.at(logits, homes[homes >= 0], -tail * np.log1p(far / tail))
        if not np.isfinite(logits).any():
            logits[:] = 0.0  # only learnwares of several tasks are near: nothing tells the tasks apart
        weights = np.exp(logits - logits.max())
        tasks = weights / weights.sum()
        likely = np.flatnonzero(tasks > NEGLIGIBLE)
        quality = float(self._base @ tasks) + tasks[likely] @ self._gains[likely]
        quality[~self._alive] = -np.inf
        return Expected(quality, tasks)

    def best(self, nearest: Closeness, top: int, tail: float = REQUEST_TAIL) -> Best:
        """The `top` learnwares; among equals the nearer one comes first."""
        expected = self.expect(nearest, tail)
        closeness = np.full(len(expected.quality), -np.inf)
        closeness[nearest.owners] = nearest.values
        shown = min(max(top, 1), int(self._alive.sum()))
        bound = np.partition(expected.quality, -shown)[-shown]
        among = np.flatnonzero(expected.quality >= bound)  # more than `shown` where equals stand at the bound
        order = among[np.lexsort((-closeness[among], -expected.quality[among]))][:shown]
        base = float(self._base @ expected.tasks)
        return Best(order, expected.quality[order], self.at_least_base(int(order[0]), expected.tasks), base)

    def at_least_base(self, learnware: int, tasks: NDArray[np.float64]) -> float:
        """Probability that a learnware answers at least as well as the base model."""
        return float(self._at_least_base[:, learnware] @ tasks)

    def _append(self, learnwares: Sequence[Learnware], removed: Sequence[int]) -> None:
        """Puts learnwares behind those that are there, in new arrays: copies of this table share the old ones."""
        own = [_own_tasks(one) for one in learnwares]
        named = {task for tasks in own for task in tasks}
        measured = {task for one in learnwares if one.capability is not None for task in one.capability.probes}
        self.tasks += tuple(sorted((named | measured) - set(self.tasks)))
        numbers = {task: number for number, task in enumerate(self.tasks)}
        before = self._gains.shape
        better, worse = PRIOR_AT_LEAST_BASE
        gains = np.full((len(numbers), before[1] + len(learnwares)), -ELSEWHERE)
        at_least_base = np.full(gains.shape, better / (better + worse))
        base = np.zeros(len(numbers))
        gains[: before[0], : before[1]], at_least_base[: before[0], : before[1]] = self._gains, self._at_least_base
        base[: before[0]] = self._base
        for i, (one, tasks) in enumerate(zip(learnwares, own, strict=True), before[1]):
            gains[[numbers[task] for task in tasks], i] = self._usual
            for task, probe in one.capability.probes.items() if one.capability is not None else ():
                t = numbers[task]
                gains[t, i], base[t] = gain(probe), probe.base_probability
                at_least_base[t, i] = (probe.at_least_base * probe.rows + better) / (probe.rows + better + worse)
        home = [numbers[tasks[0]] if len(tasks) == 1 else -1 for tasks in own]
        self._home = np.concatenate([self._home, np.array(home, np.int64)])
        self._alive = np.concatenate([self._alive, np.ones(len(learnwares), bool)])
        self._alive[list(removed)] = False
        self._gains, self._at_least_base, self._base = gains, at_least_base, base
        self.any_measured |= bool(measured)


def _own_tasks(learnware: Learnware) -> list[str]:
    return [f"{learnware.domain}-{task}" for task in learnware.tasks]


def gain(probe: ProbeScore) -> float:
    """A learnware's measured gain over the base model, in the gold answer's probability and log-likelihood, shrunk."""
    probability = probe.probability - probe.base_probability
    likelihood = probe.log_likelihood - probe.base_log_likelihood
    return (probability + LIKELIHOOD_WEIGHT * likelihood) * probe.rows / (probe.rows + SHRINKAGE_ROWS)
