"""Shares, means and medians with their 95 % intervals.

The bootstrap is written here rather than taken from `scipy.stats.bootstrap`, which refuses a single round, gives no
interval where one drawing's ratio is not a number, and cannot draw the same rows for several columns of several tasks.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

RESAMPLES = 2000
"""Number of drawings of a bootstrap: from seed to seed the ends of a 95 % interval then move by some hundredths of its
width."""

Interval = tuple[float, float]
Picks = Sequence[NDArray[np.int64]]


class Share(NamedTuple):
    """A share, `yes` of `rows`, with its Wilson interval at 95 %; without rows it is not a number."""

    yes: int
    rows: int

    @property
    def value(self) -> float:
        return self.yes / self.rows if self.rows else float("nan")

    @property
    def interval(self) -> Interval:
        if not self.rows:
            return 0.0, 1.0
        found = binomtest(self.yes, self.rows).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def share(outcomes: Iterable[bool]) -> Share:
    listed = list(outcomes)
    return Share(sum(map(bool, listed)), len(listed))


def percent(one: Share) -> str:
    """Returns the share in percent as text, such as `98.1`; `–` without rows."""
    return f"{100 * one.value:.1f}" if one.rows else "–"


def lines_of(shares: dict[str, Share], names: Sequence[str] | None = None) -> list[list[str]]:
    """Returns a table's rows: name, value, interval, number of rows."""
    return [
        [name, percent(one), "{:.1f} to {:.1f}".format(*(100 * bound for bound in one.interval)), str(one.rows)]
        for name, one in shares.items()
        if names is None or name in names
    ]


def picks_of(counts: Sequence[int], seed: int = 0) -> Picks:
    """Draws the rows of several groups with replacement, for a bootstrap that draws within each group.

    Columns that are compared row by row are indexed with the same drawings.

    Returns:
        For each group of `counts` the numbers of the drawn rows, (RESAMPLES, count).
    """
    generator = np.random.default_rng(seed)
    return [generator.integers(0, count, (RESAMPLES, count)) for count in counts]


def percentile_interval(drawn: ArrayLike) -> Interval:
    """Returns the 95 % percentile interval of a statistic's drawings; those that are not finite do not count."""
    values = np.asarray(drawn, float)
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def interval(values: Sequence[float], statistic: Callable[..., Any] = np.median) -> Interval:
    """Returns the 95 % bootstrap interval of a statistic of independent values, such as the rounds of a measurement.

    `statistic` takes an array and the axis to work along, as `np.median` and `np.mean` do.
    """
    (picks,) = picks_of([len(values)])
    return percentile_interval(statistic(np.asarray(values, float)[picks], axis=1))
