"""The distance in which requests and specifications are compared, fitted to the specifications themselves.

Raw encoder distances mix what tells tasks apart with what varies inside every task. Fisher's linear discriminant
removes the second: with the pooled within-view covariance S of all reduced sets and the scatter B of their means,

    P = S^(-1/2) V,   V = the leading eigenvectors of S^(-1/2) B S^(-1/2),

and distances are Euclidean after x ↦ xP. (Fisher 1936; Rao 1948. S is shrunk towards its mean eigenvalue as in
Ledoit & Wolf 2004, since it comes from some dozens of points a view.)

Only specifications enter, so adding a learnware needs nobody's rows, and the reduced sets stand for the learnwares'
data under this kernel too: a weighted set with a small MMD approximates the mean of any smooth function, not only of
the kernel it was fitted with.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.rkme import ReducedSet

WITHIN_CLASSES = 2000
"""The most learnwares whose covariance is pooled. They bring some 300,000 points for a matrix of 920 rows; more only
take longer."""
BLOCK_ROWS = 4096
"""Rows that are multiplied at a time."""


class Metric(NamedTuple):
    """An affine map into the space where distances count: `(x - origin) @ projection`, (d,) and (d, r)."""

    origin: NDArray[np.float32]
    projection: NDArray[np.float32]

    def apply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Maps vectors (n, d) → (n, r)."""
        return np.asarray((x - self.origin) @ self.projection, np.float32)


def fit_metric(classes: Sequence[Sequence[ReducedSet]], background: ReducedSet, shrinkage: float, rank: int) -> Metric:
    """Fits the metric for these learnwares, each given as the reduced sets of its views, against the background.

    All learnwares count equally, and the background as one third of the between-class scatter: enough that the
    differences of ordinary prompts from all learnwares stay inside the `rank` kept directions.
    """
    dim = background.points.shape[1]
    means, shares = [_mean(background)], [1 / 3]
    for views in classes:
        total = sum(float(view.weights.sum()) for view in views)
        for view in views:
            means.append(_mean(view))
            shares.append(float(view.weights.sum()) / total / len(classes) * 2 / 3)
    within = _within(classes, background)
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    whitening = vectors / np.sqrt(values)
    stacked, weights = rows_of(means), np.array(shares)
    origin = weights @ stacked
    scaled = (stacked - origin) @ whitening * np.sqrt(weights)[:, None]
    _, directions = np.linalg.eigh(scaled.T @ scaled)
    kept = min(rank, len(means) - 1, dim)
    projection = whitening @ directions[:, ::-1][:, :kept]
    return Metric(origin.astype(np.float32), np.ascontiguousarray(projection, np.float32))


def rows_of(vectors: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Returns the vectors (d,) as rows: (n, d). `np.stack` would hold the interpreter's lock over all of them."""
    rows = np.empty((len(vectors), len(vectors[0])))
    for row, vector in zip(rows, vectors, strict=True):
        row[:] = vector
    return rows


def _within(classes: Sequence[Sequence[ReducedSet]], background: ReducedSet) -> NDArray[np.float64]:
    """Returns the mean covariance within a view: (d, d). If there are more than `WITHIN_CLASSES` learnwares it is that
    of so many, evenly spaced."""
    count = min(len(classes), WITHIN_CLASSES)
    used = [classes[number * len(classes) // count] for number in range(count)]
    within = np.zeros((background.points.shape[1],) * 2)
    pending: list[NDArray[np.float32]] = [_scaled(background, 1.0)]
    for views in used:
        total = sum(float(view.weights.sum()) for view in views)
        pending += [_scaled(view, float(view.weights.sum()) / total) for view in views]
        if sum(map(len, pending)) >= BLOCK_ROWS:
            within += _squared(pending)
            pending = []
    if pending:
        within += _squared(pending)
    return within / (count + 1)


def _squared(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    stacked = np.concatenate(rows)
    return np.asarray(stacked.T @ stacked)


def _scaled(reduced: ReducedSet, share: float) -> NDArray[np.float32]:
    """Returns rows whose squares add up to the covariance, times the share."""
    weights = reduced.weights / reduced.weights.sum()
    centred = reduced.points - _mean(reduced).astype(np.float32)
    return np.asarray(centred * np.sqrt(share * weights)[:, None], np.float32)


def _mean(reduced: ReducedSet) -> NDArray[np.float64]:
    weights = reduced.weights / reduced.weights.sum()
    return np.asarray(weights @ reduced.points.astype(np.float64))
