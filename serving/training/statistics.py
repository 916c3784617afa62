"""Intervals and significance for scores of the same rows by different systems."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95 % interval then move by less than a tenth of its width from seed to seed."""

LEVEL = 0.95
"""Level of confidence of every interval and comparison."""


class Estimate(NamedTuple):
    """A mean over rows and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One system against another on the same rows: difference of accuracy with its paired bootstrap interval, exact
    two-sided McNemar p, and whether the first is better at 95 % by both."""

    difference: Estimate
    p: float
    better: bool


def estimate(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Estimate:
    """Returns the mean and its interval; (nan, nan, nan) without values."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return Estimate(math.nan, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    means = array[generator.integers(len(array), size=(RESAMPLES, len(array)), dtype=np.int32)].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(array.mean()), float(low), float(high))


def compare(first: Sequence[bool], second: Sequence[bool], seed: int = 0) -> Comparison:
    """Compares two systems' rights and wrongs, row by row.

    Raises:
        ValueError: the two do not have equally many rows.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} rows cannot be compared row by row")
    difference = estimate(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), seed)
    gains = sum(a and not b for a, b in zip(first, second, strict=True))
    losses = sum(b and not a for a, b in zip(first, second, strict=True))
    p = mcnemar(gains, losses)
    return Comparison(difference, p, difference.low > 0 and p < 1 - LEVEL)


def mcnemar(gains: int, losses: int) -> float:
    """Returns the p-value of the exact two-sided McNemar test: the chance of so uneven a split of the rows on which two
    systems differ."""
    changed = gains + losses
    tail = sum(math.comb(changed, k) for k in range(min(gains, losses) + 1))
    return min(1.0, 2 * tail / 2**changed)
