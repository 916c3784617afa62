"""Keeps learnt tasks away from requests of learnwares' own tasks.

The task model's classes are told apart by a plane each, and the few points of a learnt task say little of where it
ends: of a task with nearly the same ask it took four requests in ten. So a learnt task is believed only where its own
points are nearer to the request than those of the nearest learnwares' specifications; for all other requests the model
of the learnwares' own tasks alone says of which task they are.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.task_model import Probabilities
from specs.encoding.ask_encoder import ASK_DIM
from specs.rkme import ReducedSet

Matrix = NDArray[np.float32]

ASK_WEIGHT = 2.5
"""Length of a vector's ask beside its material when it is asked which points are nearer. With 2.5 no request of 17
tasks with a learnware of their own was nearer to one of eight learnt tasks, and 90 to 100 % of the learnt tasks'
further requests were; with 1 only 35 % of one of them."""
LEAST = 0.02
"""Probability of all learnt tasks together below which nobody looks which points are nearer."""


class LearntTasks:
    """The points of the learnt tasks among the classes of a task model; immutable."""

    def __init__(self, classes: Sequence[str], learnt: Mapping[str, ReducedSet], plain: Sequence[str]) -> None:
        """`classes` names the task model's classes, `learnt` are the learnt tasks among them, and `plain` names the
        classes of the model of learnwares' own tasks alone."""
        places = {name: number for number, name in enumerate(classes)}
        self._places = np.array([places[name] for name in plain], np.int64)
        self._count = len(classes)
        self._points = {
            number: learnt[name].points.astype(np.float32) for number, name in enumerate(classes) if name in learnt
        }
        self._numbers = np.array(list(self._points), np.int64)

    def doubted(self, probabilities: Probabilities) -> bool:
        """Whether a learnt task is so probable that its points must be looked at."""
        return self.share(probabilities) >= LEAST

    def share(self, probabilities: Probabilities) -> float:
        """Returns the probability of all learnt tasks together."""
        return float(probabilities.tasks[self._numbers].sum())

    def without(self, plain: Probabilities) -> Probabilities:
        """Returns the probabilities of the model of learnwares' own tasks alone, with none for the learnt ones."""
        tasks = np.zeros(self._count)
        tasks[self._places] = plain.tasks
        return Probabilities(tasks, plain.home)

    def believed(self, vector: Matrix, known: Iterable[Matrix], probabilities: Probabilities) -> Probabilities:
        """Returns the probabilities without the learnt tasks whose points are farther from a vector (dim,) than one of
        the `known` points, (n, dim) each."""
        nearest_known = min((_nearest(vector, points) for points in known), default=np.inf)
        tasks = probabilities.tasks.copy()
        for number, points in self._points.items():
            if _nearest(vector, points) >= nearest_known:
                tasks[number] = 0.0
        left = float(tasks.sum() + probabilities.home.sum())
        if left <= 0:
            return probabilities
        return Probabilities(tasks / left, probabilities.home / left)


def _nearest(vector: Matrix, points: Matrix) -> float:
    """Returns the squared distance to the nearest point."""
    squares = (points.astype(np.float32) - vector) ** 2
    return float((squares[:, :-ASK_DIM].sum(1) + ASK_WEIGHT**2 * squares[:, -ASK_DIM:].sum(1)).min())
