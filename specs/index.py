"""Which specifications a vector is nearest to: exactly up to some hundreds, in two stages beyond.

The closeness of a vector x to a learnware's reduced set (Z, β) is the log of its kernel mean, in the units of half a
squared distance:

    f(x) = 1/γ · log Σ_j β_j exp(-γ/2 ‖x - z_j‖²)

With all Z stacked this is one matrix product and a segmented log-sum-exp. At 10,000 learnwares the product would
read some hundred megabytes per request, so the points are put into cells (an inverted file: Jégou et al. 2011,
"Product Quantization for Nearest Neighbor Search", section IV): the cells nearest to x name the candidate
learnwares, and only these are scored exactly.

An index is immutable: adding or removing a learnware builds another one, and a reference is swapped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.errors import InvalidSpecification

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]

EXACT_POINTS = 40_000
"""Up to this many points (about 300 learnwares) the one product stays near a millisecond."""
PROBED_CELLS = 24
SHORTLIST = 48
"""Cells looked at and learnwares scored exactly in two stages; recall@1 and time at 10,000 are in
`benchmarks.routing`."""
TRAINING_POINTS = 60_000
CELL_ROUNDS = 6


class Closeness(NamedTuple):
    """Learnwares (positions in the order given to the index) with f(x), the nearest first."""

    owners: NDArray[np.int64]
    values: NDArray[np.float64]


class SpecificationIndex:
    """Stacked points of n learnwares in the metric's space; `sets[i]` is learnware i's (points (k_i, r), weights
    (k_i,))."""

    def __init__(
        self, sets: Sequence[tuple[Matrix, NDArray[np.float64]]], gamma: float, exact: bool | None = None
    ) -> None:
        if not sets:
            raise InvalidSpecification("an index needs at least one learnware")
        counts = np.array([len(points) for points, _ in sets])
        self._gamma = gamma
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._points = np.ascontiguousarray(np.concatenate([points for points, _ in sets]), np.float32)
        with np.errstate(divide="ignore"):
            log_weights = np.log(np.concatenate([weights for _, weights in sets]))
        # -γ/2‖z‖² + log β: the part of the exponent that no request changes.
        self._constants = (log_weights - gamma / 2 * (self._points.astype(np.float64) ** 2).sum(1)).astype(np.float32)
        self._owners = np.repeat(np.arange(len(sets)), counts)
        self.exact = len(self._points) <= EXACT_POINTS if exact is None else exact
        self._cells = None if self.exact else _Cells(self._points, self._owners)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def search(self, x: Vector, top: int) -> Closeness:
        """The `top` nearest learnwares to x (r,)."""
        owners = None if self._cells is None else self._cells.candidates(x)
        closeness = self.all_values(x) if owners is None else self._values_of(x, owners)
        top = min(top, len(closeness))
        best = np.argpartition(-closeness, top - 1)[:top]
        best = best[np.argsort(-closeness[best], kind="stable")]
        return Closeness(best if owners is None else owners[best], closeness[best])

    def all_values(self, x: Vector) -> NDArray[np.float64]:
        """f(x) of every learnware, exactly: (n,)."""
        return self._finish(x, self._constants + self._gamma * (self._points @ x), self._starts[:-1])

    def _values_of(self, x: Vector, owners: NDArray[np.int64]) -> NDArray[np.float64]:
        counts = self._starts[owners + 1] - self._starts[owners]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rows = np.arange(counts.sum()) + np.repeat(self._starts[owners] - starts, counts)
        return self._finish(x, self._constants[rows] + self._gamma * (self._points[rows] @ x), starts)

    def _finish(self, x: Vector, exponents: Vector, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        peaks = np.maximum.reduceat(exponents, starts)
        counts = np.diff(np.append(starts, len(exponents)))
        sums = np.add.reduceat(np.exp(exponents - np.repeat(peaks, counts)), starts)
        logs = peaks.astype(np.float64) + np.log(sums)
        return np.asarray(logs / self._gamma - float(x @ x) / 2)


class _Cells:
    """An inverted file over all points: each cell's points lie together, with the learnware that owns each."""

    def __init__(self, points: Matrix, owners: NDArray[np.int64]) -> None:
        generator = np.random.default_rng(0)
        count = int(np.sqrt(len(points)))
        sample = points[generator.choice(len(points), min(TRAINING_POINTS, len(points)), replace=False)]
        self._centres = sample[:count].copy()
        for _ in range(CELL_ROUNDS):
            cell = _nearest(sample, self._centres)
            sums = np.zeros_like(self._centres)
            np.add.at(sums, cell, sample)
            counts = np.bincount(cell, minlength=count)
            self._centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], self._centres).astype(
                np.float32
            )
        cell = _nearest(points, self._centres)
        order = np.argsort(cell, kind="stable")
        self._points, self._owners = points[order], owners[order]
        self._half_squares = (self._points**2).sum(1) / 2
        self._centre_half_squares = (self._centres**2).sum(1) / 2
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))])

    def candidates(self, x: Vector) -> NDArray[np.int64]:
        """Learnwares that own the points nearest to x: at most SHORTLIST, in no order."""
        nearness = self._centres @ x - self._centre_half_squares
        probed = np.argpartition(-nearness, min(PROBED_CELLS, len(nearness) - 1))[:PROBED_CELLS]
        closeness = np.concatenate(
            [
                self._points[self._starts[cell] : self._starts[cell + 1]] @ x
                - self._half_squares[self._starts[cell] : self._starts[cell + 1]]
                for cell in probed
            ]
        )
        owners = np.concatenate([self._owners[self._starts[cell] : self._starts[cell + 1]] for cell in probed])
        nearest = min(4 * SHORTLIST, len(closeness))
        best = np.argpartition(-closeness, nearest - 1)[:nearest]
        best = best[np.argsort(-closeness[best])]
        distinct, first = np.unique(owners[best], return_index=True)
        return np.asarray(distinct[np.argsort(first)][:SHORTLIST])


def _nearest(points: Matrix, centres: Matrix, block: int = 8192) -> NDArray[np.int64]:
    half_squares = (centres**2).sum(1) / 2
    return np.concatenate(
        [(points[start : start + block] @ centres.T - half_squares).argmax(1) for start in range(0, len(points), block)]
    )
