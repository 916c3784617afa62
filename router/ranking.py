"""Which learnware answers best what looks like this: nearness says to which tasks a request may belong, measured
capabilities say who is good at them.

With p(t | x) the probability that request x is of task t, and q(i, t) learnware i's quality on t, the learnware with
the largest

    Σ_t p(t | x) q(i, t)

is chosen. A task is what learnwares' cards name; where it lies is told by the specifications of the learnwares that
name it alone. p is a softmax over the tasks' nearest such specification (`specs.index`).

Where a learnware was measured (`specs.capability`), its quality is its gain over the base model there, shrunk towards
none: a few probe rows say little. On other tasks it counts as a little less than the base model does, on its own ones
as the average learnware does on its own: what a provider made it for is worth something even when nobody has looked.
Where the base model itself is expected to answer best, it does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.capability import ProbeScore
from specs.index import Closeness
from specs.learnware import Learnware

TASK_SHARPNESS = 0.5
"""How much the task probabilities differ for one unit of closeness, which is half a squared distance."""
SHRINKAGE_ROWS = 4.0
"""A gain over the base model counts as if that many more rows had shown none."""
ELSEWHERE = 0.02
"""What a learnware is taken to lose against the base model on tasks that are not its own, where nobody has looked."""
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
    """An immutable table of learnwares × tasks. Learnwares keep the order in which they were given."""

    def __init__(self, learnwares: Sequence[Learnware], sharpness: float = TASK_SHARPNESS) -> None:
        own = [[f"{one.domain}-{task}" for task in one.tasks] for one in learnwares]
        named = {task for tasks in own for task in tasks}
        measured = {task for one in learnwares if one.capability is not None for task in one.capability.probes}
        self.tasks = tuple(sorted(named | measured))
        numbers = {task: number for number, task in enumerate(self.tasks)}
        self._sharpness = sharpness
        self._home = np.array([numbers[tasks[0]] if len(tasks) == 1 else -1 for tasks in own])
        shape = len(learnwares), len(self.tasks)
        gains, known = np.full(shape, -ELSEWHERE), np.zeros(shape, bool)
        self._base = np.zeros(shape[1])
        wins, rows = np.zeros(shape), np.zeros(shape)
        for i, one in enumerate(learnwares):
            for task, probe in one.capability.probes.items() if one.capability is not None else ():
                t = numbers[task]
                gains[i, t], known[i, t] = gain(probe), True
                wins[i, t], rows[i, t] = probe.at_least_base * probe.rows, probe.rows
                self._base[t] = probe.base_probability
        mine = np.zeros(shape, bool)
        for i, tasks in enumerate(own):
            mine[i, [numbers[task] for task in tasks]] = True
        usual = float(gains[known & mine].mean()) if (known & mine).any() else 0.0
        gains[mine & ~known] = usual
        self.quality = np.ascontiguousarray(self._base + gains)
        better, worse = PRIOR_AT_LEAST_BASE
        self._at_least_base = (wins + better) / (rows + better + worse)
        self.any_measured = bool(known.any())

    def expect(self, nearest: Closeness) -> Expected:
        """What is expected of every learnware for a request with these nearest specifications."""
        logits = np.full(len(self.tasks), -np.inf)
        homes = self._home[nearest.owners]
        np.maximum.at(logits, homes[homes >= 0], nearest.values[homes >= 0] * self._sharpness)
        if not np.isfinite(logits).any():
            logits[:] = 0.0  # only learnwares of several tasks are near: nothing tells the tasks apart
        weights = np.exp(logits - logits.max())
        tasks = weights / weights.sum()
        return Expected(self.quality @ tasks, tasks)

    def best(self, nearest: Closeness, top: int) -> Best:
        """The `top` learnwares; among equals the nearer one comes first."""
        expected = self.expect(nearest)
        closeness = np.full(len(expected.quality), -np.inf)
        closeness[nearest.owners] = nearest.values
        shown = min(max(top, 1), len(closeness))
        bound = np.partition(expected.quality, -shown)[-shown]
        among = np.flatnonzero(expected.quality >= bound)  # more than `shown` where equals stand at the bound
        order = among[np.lexsort((-closeness[among], -expected.quality[among]))][:shown]
        base = float(self._base @ expected.tasks)
        return Best(order, expected.quality[order], self.at_least_base(int(order[0]), expected.tasks), base)

    def at_least_base(self, learnware: int, tasks: NDArray[np.float64]) -> float:
        """Probability that a learnware answers at least as well as the base model."""
        return float(self._at_least_base[learnware] @ tasks)


def gain(probe: ProbeScore) -> float:
    """A learnware's measured gain over the base model, in the gold answer's probability, shrunk."""
    share = probe.rows / (probe.rows + SHRINKAGE_ROWS)
    return share * (probe.probability - probe.base_probability)
