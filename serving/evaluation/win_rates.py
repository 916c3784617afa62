"""Win rates with intervals: of paired verdicts, and of the scores that two models' own answers got."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959964
"""Standard errors in half of a 95 % interval of the normal distribution."""


class WinRate(NamedTuple):
    """How often the second of two models wins, a tie counted half, with its 95 % interval."""

    comparisons: int
    wins: float
    ties: float
    losses: float
    rate: float
    low: float
    high: float


def win_rate(wins: float, ties: float, losses: float, count: float | None = None) -> WinRate:
    """Returns the win rate of these verdicts.

    The interval is that of Bonett and Price (2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data"): one win and one loss more. It stays open where all verdicts are alike. `count`
    is the number of verdicts that it counts for, by default all.
    """
    comparisons = wins + ties + losses
    if not comparisons:
        return WinRate(0, 0, 0, 0, 0.5, 0.0, 1.0)
    worth = (count or comparisons) / comparisons
    own, other, number = wins * worth + 1, losses * worth + 1, comparisons * worth + 2
    difference = (own - other) / number
    error = math.sqrt(max((own + other) / number - difference**2, 0.0) / number)
    low, high = (min(max((1 + difference + side * Z * error) / 2, 0.0), 1.0) for side in (-1, 1))
    rate = (wins + ties / 2) / comparisons
    return WinRate(round(comparisons), wins, ties, losses, rate, min(low, rate), max(high, rate))


def win_rate_of_scores(first: Sequence[float], second: Sequence[float]) -> WinRate:
    """Returns how often a score of the second model is above one of the first, over all pairs of both (Mann and Whitney
    1947). The scores belong to different requests: the interval counts n·m/(n+m) comparisons, the number of paired ones
    that tells as much of a difference of means as n and m unpaired ones."""
    if not first or not second:
        return win_rate(0, 0, 0)
    others = np.sort(np.asarray(first, np.float64))
    own = np.asarray(second, np.float64)
    below = np.searchsorted(others, own, "left") / len(others)
    not_above = np.searchsorted(others, own, "right") / len(others)
    wins, losses = float(below.sum()), float((1 - not_above).sum())
    worth = len(others) * len(own) / (len(others) + len(own))
    return win_rate(wins, len(own) - wins - losses, losses, worth)
