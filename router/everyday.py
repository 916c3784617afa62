"""How near everyday prompts are to the learnwares: what confidence is measured against.

The margin of a request is f(nearest learnware) - f(everyday prompts), f being the log of a kernel mean
(`specs.stack`). Its scale is set by the everyday prompts themselves, each scored with its own point left out: 0 is
their median margin and 1 their 95th percentile. So the border moves along when learnwares come and go, and no user's
data is needed to place it.
"""

import copy
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from specs.index import SpecificationIndex
from specs.rkme import squared_distances
from specs.stack import Matrix, Vector, stack

SPREAD_QUANTILE = 0.95
"""The everyday prompts' margin that counts as 1. Nearer to the maximum it would hang on single prompts."""


class EverydayScale:
    """Immutable; for one index of learnwares."""

    def __init__(self, points: Matrix, index: SpecificationIndex, gamma: float) -> None:
        """`points` (m, r) are the everyday prompts in the index's space."""
        self._gamma = gamma
        self._points = points
        self._stack = stack([(points, np.full(len(points), 1 / len(points)))], gamma)
        self._densities = _densities_without_self(points, gamma)
        nearest = [index.search(point, 1) for point in points]
        self._owners = np.array([int(found.owners[0]) for found in nearest])
        self._nearest = np.array([float(found.values[0]) for found in nearest])
        self._place()

    def changed(self, index: SpecificationIndex, added: Sequence[int], removed: Collection[int]) -> "EverydayScale":
        """The scale for `index`, which `SpecificationIndex.changed` made by adding and removing these numbers."""
        other = copy.copy(self)
        other._change(index, added, removed)  # noqa: SLF001 (an object of this very class)
        return other

    def margin(self, x: Vector, closeness: float) -> float:
        """The standard margin of a vector with this closeness to its nearest learnware: 0 is the everyday prompts'
        median, 1 their 95th percentile."""
        margin = closeness - float(self._stack.values(x, self._gamma)[0])
        return (margin - self._median) / self._spread

    def _change(self, index: SpecificationIndex, added: Sequence[int], removed: Collection[int]) -> None:
        self._owners, self._nearest = self._owners.copy(), self._nearest.copy()
        for row in np.flatnonzero(np.isin(self._owners, list(removed))):
            found = index.search(self._points[row], 1)
            self._owners[row], self._nearest[row] = found.owners[0], found.values[0]
        if added:
            values = index.values_of_many(self._points, added)
            best = values.argmax(1)
            highest = values[np.arange(len(values)), best]
            nearer = highest > self._nearest
            self._owners[nearer] = np.asarray(added)[best[nearer]]
            self._nearest[nearer] = highest[nearer]
        self._place()

    def _place(self) -> None:
        median, upper = np.quantile(self._nearest - self._densities, [0.5, SPREAD_QUANTILE])
        self._median, self._spread = float(median), max(float(upper - median), 1e-6)


def _densities_without_self(points: Matrix, gamma: float) -> NDArray[np.float64]:
    """f of each point to all others: (m,)."""
    exponents = -gamma / 2 * squared_distances(points, points)
    np.fill_diagonal(exponents, -np.inf)
    peaks = exponents.max(1)
    logs = peaks + np.log(np.exp(exponents - peaks[:, None]).sum(1) / (len(points) - 1))
    return np.asarray(logs / gamma)
