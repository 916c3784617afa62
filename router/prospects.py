"""Prospects of requests that feedback speaks of: which known task they are of, what is expected of the learnwares
there, and which learnwares are the likeliest to be good, so that a benchmark scores these alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.selection import Selector
from router.task_model import class_of
from specs.rkme import squared_distances

Matrix = NDArray[np.float32]

NEAR_TASK = 0.45
"""Squared distance to a point of a learnware's specification within which a request is of that learnware's task.
Rows of the starters' tasks are nine times in ten nearer than that (those of free questions are not: they are as far
from each other as from anything), and rows of tasks that no learnware was made for are farther."""
NEAREST_LEARNWARES = 6
"""Learnwares whose points are compared with a request."""
CANDIDATES = 12
"""Learnwares that are worth scoring on a group of requests."""


class Prospects(NamedTuple):
    """The learnwares' ids, and for a group of requests their mean expected gains over the base model (n,) and the
    median closeness of their specifications (n,), -∞ where none was near."""

    ids: tuple[str, ...]
    gains: NDArray[np.float64]
    closeness: NDArray[np.float64]

    def likeliest(self, count: int = CANDIDATES) -> list[str]:
        """Returns the ids of the learnwares that may be good: one half by expected gain, and the other by nearness.
        Nobody has measured those that are near, so little is expected of them; yet among them are those that turn out
        best."""
        first = list(np.argsort(-self.gains, kind="stable")[: (count + 1) // 2])
        near = [one for one in np.argsort(-self.closeness, kind="stable") if one not in first]
        return [self.ids[one] for one in [*first, *near][:count]]


def prospects(selector: Selector, vectors: Matrix) -> Prospects:
    """Returns the prospects for requests with these vectors (n, dim), n ≥ 1."""
    learnwares = selector.learnwares
    closeness = np.full((len(vectors), len(learnwares)), -np.inf)
    for row, vector in enumerate(vectors):
        found = selector.nearness(vector, 4 * CANDIDATES)
        closeness[row, found.owners] = found.values
    return Prospects(tuple(one.id for one in learnwares), mean_gains(selector, vectors), np.median(closeness, 0))


def mean_gains(selector: Selector, vectors: Matrix) -> NDArray[np.float64]:
    """Returns the mean expected gains over the base model for requests with these vectors (n, dim), n ≥ 1, in the order
    of the selector's learnwares."""
    return np.asarray(np.mean([selector.gains(vector) for vector in vectors], 0))


def known_tasks(selector: Selector, vectors: Matrix) -> list[str | None]:
    """Returns for each vector (n, dim) the known task (a class of the task model) of which it is, or None where it is
    near no learnware's requests (`NEAR_TASK`)."""
    learnwares = selector.learnwares
    found: list[str | None] = []
    for vector in vectors:
        nearest, least = None, NEAR_TASK
        for owner in selector.nearness(vector, NEAREST_LEARNWARES).owners:
            points = learnwares[owner].specified.whole_set.points.astype(np.float32)
            distance = float(squared_distances(vector[None], points).min())
            if distance < least:
                nearest, least = class_of(learnwares[owner]), distance
        found.append(nearest)
    return found
