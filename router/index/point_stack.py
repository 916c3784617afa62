"""Weighted point sets of many owners in one array, so that a vector is compared with all of them in one product.

The closeness of a vector x to a set (Z, β) is the log of its kernel mean, in the units of half a squared distance:

    f(x) = 1/γ · log Σ_j β_j exp(-γ/2 ‖x - z_j‖²)
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
PointSet = tuple[Matrix, NDArray[np.float64]]
"""Points (k, r) and their weights (k,)."""

BLOCK_VALUES = 1 << 20
"""Numbers of one product with many vectors: 4 MB, which stay in the cache between its steps."""


class PointStack(NamedTuple):
    """Points (n, r) of consecutive owners, owner i's from `starts[i]` to `starts[i + 1]`. `constants` (n,) is log β -
    γ/2 ‖z‖², the part of the exponent that no vector changes."""

    points: Matrix
    constants: Vector
    starts: NDArray[np.int64]

    @property
    def owners(self) -> int:
        """Number of owners."""
        return len(self.starts) - 1

    def values(self, x: Vector, gamma: float) -> NDArray[np.float64]:
        """Returns f(x) of every owner: (owners,)."""
        exponents = self.constants + gamma * (self.points @ x)
        return _log_means(x, exponents, self.starts[:-1], gamma)

    def values_of(self, x: Vector, owners: NDArray[np.int64], gamma: float) -> NDArray[np.float64]:
        """Returns f(x) of some owners (m,), at least one: (m,)."""
        spans = list(zip(self.starts[owners].tolist(), self.starts[owners + 1].tolist(), strict=True))
        products = np.concatenate([self.points[start:end] @ x for start, end in spans])
        constants = np.concatenate([self.constants[start:end] for start, end in spans])
        starts = np.cumsum([0] + [end - start for start, end in spans[:-1]])
        return _log_means(x, constants + gamma * products, starts, gamma)

    def values_of_many(self, rows: Matrix, gamma: float) -> NDArray[np.float64]:
        """Returns f of every owner for many vectors (m, r): (m, owners)."""
        step = max(1, BLOCK_VALUES // max(len(self.points), 1))
        parts = []
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            exponents = self.constants + gamma * (block @ self.points.T)
            peaks = np.maximum.reduceat(exponents, self.starts[:-1], axis=1)
            exponents -= np.repeat(peaks, np.diff(self.starts), axis=1)
            sums = np.add.reduceat(np.exp(exponents), self.starts[:-1], axis=1)
            half_squares = (block.astype(np.float64) ** 2).sum(1) / 2
            parts.append((peaks.astype(np.float64) + np.log(sums)) / gamma - half_squares[:, None])
        return np.concatenate(parts)


def stack(sets: Sequence[PointSet], gamma: float) -> PointStack:
    """Stacks the point sets, at least one, one after the other."""
    starts = np.concatenate([[0], np.cumsum([len(points) for points, _ in sets])])
    stacked = np.empty((int(starts[-1]), sets[0][0].shape[1]), np.float32)
    constants = np.empty(len(stacked), np.float32)
    with np.errstate(divide="ignore"):
        # One owner at a time: a single call over thousands of arrays would hold the interpreter's lock all the while.
        for (points, weights), start, end in zip(sets, starts.tolist(), starts[1:].tolist(), strict=False):
            stacked[start:end] = points
            constants[start:end] = np.log(weights) - gamma / 2 * (points.astype(np.float64) ** 2).sum(1)
    return PointStack(stacked, constants, starts)


def joined(first: PointStack, second: PointStack) -> PointStack:
    """Returns both stacks in one, the second's owners after the first's."""
    return PointStack(
        np.concatenate([first.points, second.points]),
        np.concatenate([first.constants, second.constants]),
        np.concatenate([first.starts, first.starts[-1] + second.starts[1:]]),
    )


def _log_means(x: Vector, exponents: Vector, starts: NDArray[np.int64], gamma: float) -> NDArray[np.float64]:
    peaks = np.maximum.reduceat(exponents, starts)
    counts = np.diff(np.append(starts, len(exponents)))
    sums = np.add.reduceat(np.exp(exponents - np.repeat(peaks, counts)), starts)
    logs = peaks.astype(np.float64) + np.log(sums)
    return np.asarray(logs / gamma - float(x @ x) / 2)
