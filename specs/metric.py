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


class Metric(NamedTuple):
    """An affine map into the space where distances count: `(x - origin) @ projection`, (d,) and (d, r)."""

    origin: NDArray[np.float32]
    projection: NDArray[np.float32]

    def apply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) → (n, r)."""
        return np.asarray((x - self.origin) @ self.projection, np.float32)


def fit_metric(classes: Sequence[Sequence[ReducedSet]], background: ReducedSet, shrinkage: float, rank: int) -> Metric:
    """The metric for these learnwares, each given as the reduced sets of its views, against the background.

    All learnwares count equally, and the background as one third of the between-class scatter: enough that what
    separates ordinary prompts from all learnwares stays inside the `rank` kept directions.
    """
    dim = background.points.shape[1]
    within = _covariance(background)
    means, shares = [_mean(background)], [1 / 3]
    for views in classes:
        total = sum(float(view.weights.sum()) for view in views)
        for view in views:
            share = float(view.weights.sum()) / total
            within += share * _covariance(view)
            means.append(_mean(view))
            shares.append(share / len(classes) * 2 / 3)
    within /= len(classes) + 1
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / dim * np.eye(dim)
    values, vectors = np.linalg.eigh(within)
    whitening = vectors / np.sqrt(values)
    stacked, weights = np.stack(means), np.array(shares)
    origin = weights @ stacked
    scaled = (stacked - origin) @ whitening * np.sqrt(weights)[:, None]
    _, directions = np.linalg.eigh(scaled.T @ scaled)
    kept = min(rank, len(means) - 1, dim)
    projection = whitening @ directions[:, ::-1][:, :kept]
    return Metric(origin.astype(np.float32), np.ascontiguousarray(projection, np.float32))


def _mean(reduced: ReducedSet) -> NDArray[np.float64]:
    weights = reduced.weights / reduced.weights.sum()
    return np.asarray(weights @ reduced.points.astype(np.float64))


def _covariance(reduced: ReducedSet) -> NDArray[np.float64]:
    weights = reduced.weights / reduced.weights.sum()
    centred = reduced.points.astype(np.float64) - _mean(reduced)
    return np.asarray((centred * weights[:, None]).T @ centred)
