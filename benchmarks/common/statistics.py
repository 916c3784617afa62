"""Shares and medians with their 95 % intervals."""

import random
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from scipy.stats import binomtest

RESAMPLES = 2000


class Share(NamedTuple):
    """`yes` of `rows`, and the Wilson interval of the share at 95 %. Of no rows the share is not a number."""

    yes: int
    rows: int

    @property
    def value(self) -> float:
        return self.yes / self.rows if self.rows else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        if not self.rows:
            return 0.0, 1.0
        found = binomtest(self.yes, self.rows).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def share(outcomes: Iterable[bool]) -> Share:
    listed = list(outcomes)
    return Share(sum(map(bool, listed)), len(listed))


def percent(one: Share) -> str:
    """`98.1` as in a table; `–` without rows."""
    return f"{100 * one.value:.1f}" if one.rows else "–"


def lines_of(shares: dict[str, Share], names: Sequence[str] | None = None) -> list[list[str]]:
    """Rows of a table: name, value, interval, rows."""
    return [
        [name, percent(one), "{:.1f} to {:.1f}".format(*(100 * bound for bound in one.interval)), str(one.rows)]
        for name, one in shares.items()
        if names is None or name in names
    ]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap interval, 95 %, of the median of the rounds."""
    random_ = random.Random(0)
    medians = sorted(median(random_.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]
