"""Intervals of shares, means and medians."""

import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks.common.statistics import RESAMPLES, interval, percentile_interval, picks_of, share

VALUES = [0.9, 0.95, 1.0, 1.05, 1.3, 0.97, 1.02]


def test_the_interval_holds_the_median_and_lies_within_the_range():
    low, high = interval(VALUES)
    assert 0.9 <= low <= 1.0 <= high <= 1.3


@pytest.mark.parametrize("statistic", [np.median, np.mean])
def test_the_interval_agrees_with_scipys_percentile_bootstrap(statistic):
    drawn = bootstrap((VALUES,), statistic, n_resamples=20_000, method="percentile", rng=7).confidence_interval
    assert interval(VALUES, statistic) == pytest.approx((drawn.low, drawn.high), abs=0.03)


def test_one_round_is_its_own_interval():
    assert interval([1.05]) == (1.05, 1.05)


def test_drawings_that_are_not_finite_do_not_count():
    assert percentile_interval([math.nan, 2.0, math.inf, 2.0]) == (2.0, 2.0)
    assert all(map(math.isnan, percentile_interval([math.nan])))


def test_rows_are_drawn_within_their_group_and_again_the_same():
    few, many = picks_of([3, 50])
    assert few.shape == (RESAMPLES, 3)
    assert (set(np.unique(few)), many.max()) == ({0, 1, 2}, 49)
    assert (picks_of([3, 50])[1] == many).all()


def test_the_interval_of_a_share_is_not_empty_at_its_ends():
    one = share([True] * 20)
    assert one.value == 1
    assert 0.8 < one.interval[0] < one.interval[1] == 1
