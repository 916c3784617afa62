"""Arithmetic that scenarios share: percentiles, ratios of percentiles with their spread, robust slopes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import theilslopes

from benchmarks.common.statistics import Interval, percentile_interval, picks_of

MIB = 1 << 20


class Findings(NamedTuple):
    """Figures and faults that a scenario's evaluation makes of its records."""

    figures: dict[str, float]
    """Flat, name to number, as the result and the table have them."""
    intervals: dict[str, Interval]
    """95 % intervals of some of the figures."""
    faults: list[str]
    """One sentence for each thing that happened and must not; some of many."""
    details: dict[str, object]


def percentile(values: Sequence[float], share: float) -> float:
    """Returns a percentile by linear interpolation; not a number without values."""
    return float(np.quantile(np.asarray(values, float), share)) if len(values) else float("nan")


def p99_ratio(with_: Sequence[float], without: Sequence[float]) -> tuple[float, Interval]:
    """Returns the ratio of the 99th percentiles of two samples, and its 95 % bootstrap interval."""
    if not len(with_) or not len(without):
        return float("nan"), (float("nan"), float("nan"))
    above, below = np.asarray(with_, float), np.asarray(without, float)
    first, second = picks_of([len(above), len(below)])
    drawn = np.quantile(above[first], 0.99, axis=1) / np.quantile(below[second], 0.99, axis=1)
    return percentile(above.tolist(), 0.99) / percentile(below.tolist(), 0.99), percentile_interval(drawn)


def slope_per_minute(at_s: Sequence[float], values: Sequence[float]) -> float:
    """Returns the Theil-Sen slope of values over time, per minute: the median of all pairs' slopes, which a few
    outliers do not move; 0 for fewer than two values."""
    if len(at_s) < 2:
        return 0.0
    return float(theilslopes(values, at_s).slope) * 60
