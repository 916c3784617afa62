"""Means of what several tenants say, in which no single tenant has more than its share."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OUTLIER_ERRORS = 2.0
"""Standard errors of a tenant's mean by which it may differ from the tenants' median before it is moved there."""
FEWEST_TENANTS = 3
"""The fewest tenants of which one can be told to be an outlier."""
ROUNDS = 60
"""Rounds in which the shares of the weight settle."""


class Mean(NamedTuple):
    """A mean, the effective number of pieces behind it, and how many pieces of how many tenants there were."""

    value: float
    weight: float
    pieces: int
    tenants: int


def robust_mean(
    values: Sequence[float],
    weights: Sequence[float],
    tenants: Sequence[str],
    share: float,
    prior_weight: float,
    variance: float,
) -> Mean:
    """Returns the mean of these values.

    Args:
        values: what each piece says.
        weights: how much each piece counts (1 when it is new).
        tenants: who said it.
        share: most of the whole weight, `prior_weight` included, that one tenant has.
        prior_weight: pieces that the prior counts for; so even a lone tenant is bounded.
        variance: variance of one piece, by which tenants' means are known to differ by chance.
    """
    names, owner = np.unique(np.asarray(tenants), return_inverse=True)
    each, heavy = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    sums = np.bincount(owner, weights=heavy, minlength=len(names)).astype(np.float64)
    means = np.bincount(owner, weights=heavy * each, minlength=len(names)) / np.maximum(sums, 1e-12)
    if len(names) >= FEWEST_TENANTS:
        middle = float(np.median(means))
        reach = OUTLIER_ERRORS * np.sqrt(variance / np.maximum(sums, 1e-12))
        means = np.clip(means, middle - reach, middle + reach)
    bounded = bounded_weights(sums, share, prior_weight)
    total = float(bounded.sum())
    value = float(bounded @ means / total) if total > 0 else 0.0
    return Mean(value, total, len(each), len(names))


def bounded_weights(sums: NDArray[np.float64], share: float, prior_weight: float) -> NDArray[np.float64]:
    """Returns the tenants' weights, each bounded by `share` of them all and the prior's together."""
    bounded = sums
    for _ in range(ROUNDS):
        bounded = np.minimum(sums, share * (prior_weight + bounded.sum()))
    return bounded
