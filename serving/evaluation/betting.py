"""Tests and intervals for a mean that hold at all looks at once, by betting (Waudby-Smith and Ramdas 2024, "Estimating
means of bounded random variables by betting", section 4).

Whoever looks again and again at an ordinary 95 % interval, and acts when it first excludes a value, is wrong far more
often than one time in twenty. A bet is not: somebody starts with 1, and stakes a part of it at each value on the mean
being above m. If it is not, the money grows on average by no rule that knows only earlier values, and the chance that
it ever reaches 1/α is at most α (Ville's inequality). Money of 1/α is thus evidence against "the mean is at most m" at
level α, whenever one looks, whatever the distribution.

Here the bets are shares of the money, fixed beforehand: the money is the mean over some of them, small ones for small
differences and many values, large ones for large differences and few. So it does not depend on the values' order.

Each value has a source (a tenant). Where three or more spoke, the evidence is the least that is left when any one of
them is left out: nobody alone decides. The least of several such sums is smaller than each, so the level holds.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.025
"""α of each side, so that an interval holds with 95 %."""
STAKES = np.array([0.95, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05])
"""Shares of the largest bet that cannot lose more than there is. The best one is about the difference over the
variance: 0.2 for a difference of 0.1 between answers of which half are right, the largest for a broken model."""
FEWEST_SOURCES = 3
"""Sources from which on one of them is left out; of two nobody can tell which one is odd."""
GRID = np.linspace(-1.0, 1.0, 401)
"""Means that an interval is made of; its ends are exact to half a hundredth."""


LARGEST = 700.0
"""Logarithm of the largest money that is told: more is no floating-point number."""
DIGITS = 6
"""Digits after the point by which values are the same."""


class Value(NamedTuple):
    """One value in [-1, 1], and who it is from."""

    source: str
    value: float


class Bounds(NamedTuple):
    """The mean of some values, and an interval for what it is the mean of."""

    values: int
    """Number of values."""
    mean: float
    low: float
    high: float


def evidence_above(values: Sequence[Value], mean: float) -> float:
    """Returns the money of whoever bets that the mean of values in [-1, 1] is above this one, which is in (-1, 1)."""
    if not values:
        return 1.0
    return float(np.exp(min(_log_money(*_grouped(values), np.array([mean]))[0], LARGEST)))


def evidence_below(values: Sequence[Value], mean: float) -> float:
    """Returns the money of whoever bets that the mean is below this one."""
    return evidence_above([Value(one.source, -one.value) for one in values], -mean)


def bounds(values: Sequence[Value], level: float = LEVEL) -> Bounds:
    """Returns the mean and the means of `GRID` against which there is no evidence at this level of each side; the whole
    grid where there are no values."""
    if not values:
        return Bounds(0, 0.0, -1.0, 1.0)
    begins, numbers, counts = _grouped(values)
    enough = np.log(1 / level)
    inner = GRID[1:-1]
    above = _log_money(begins, numbers, counts, inner) >= enough  # the mean is larger than these
    below = _log_money(begins, -numbers, counts, -inner) >= enough
    low = float(inner[above].max()) if above.any() else -1.0
    high = float(inner[below].min()) if below.any() else 1.0
    return Bounds(len(values), float(numbers @ counts / len(values)), low, high)


def _grouped(values: Sequence[Value]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Returns the places where each source's values begin, the values source by source, and how often each comes there:
    most answers do not fail, so few differ."""
    counted = Counter((one.source, round(one.value, DIGITS)) for one in values)
    kept = sorted(counted)
    begins = [place for place, (source, _) in enumerate(kept) if not place or kept[place - 1][0] != source]
    numbers = np.array([value for _, value in kept], np.float64)
    return np.array(begins, np.int64), numbers, np.array([counted[one] for one in kept], np.int64)


def _log_money(
    begins: NDArray[np.int64], numbers: NDArray[np.float64], counts: NDArray[np.int64], means: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns the logarithm of the money for each of these means (m,), without the source that gained most."""
    sources = len(begins)
    # a bet of c / (1 + mean) loses at most c of the money: no value is below -1
    logs = np.zeros((sources, len(STAKES), len(means)))
    for place, stake in enumerate(STAKES):
        gained = np.log1p(stake / (1 + means) * (numbers[:, None] - means))
        logs[:, place] = np.add.reduceat(counts[:, None] * gained, begins, axis=0)
    whole = logs.sum(0)
    if sources < FEWEST_SOURCES:
        return _mixed(whole)
    return np.min(_mixed(np.moveaxis(whole - logs, 1, 0)), axis=0)


def _mixed(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the logarithm of the mean over the stakes, the first axis."""
    largest = logs.max(0)
    return np.asarray(largest + np.log(np.exp(logs - largest).mean(0)))
