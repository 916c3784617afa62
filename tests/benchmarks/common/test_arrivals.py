"""Arrivals, adapters and lengths follow the distributions they are named after."""

import numpy as np
import pytest

from benchmarks.common.arrivals import gamma_arrivals, power_law, uniform_lengths

MANY = 40_000


@pytest.mark.parametrize("cv", [0.5, 1.0, 4.0])
def test_gamma_arrivals_have_the_rate_and_the_variation(cv):
    at = gamma_arrivals(MANY, rate=5.0, cv=cv, seed=1)
    gaps = np.diff(at)
    assert at[0] == 0
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / 5.0, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_power_law_gives_each_rank_its_share_and_deals_the_ranks_out():
    adapters, alpha = 20, 1.0
    drawn = power_law(MANY, adapters, alpha, seed=2)
    counts = np.bincount(drawn, minlength=adapters)
    shares = np.sort(counts)[::-1] / MANY
    expected = np.arange(1, adapters + 1) ** -alpha
    assert shares == pytest.approx(expected / expected.sum(), abs=0.01)
    assert (np.diff(counts) > 0).any()


def test_the_same_seed_gives_the_same_load_and_another_seed_another():
    for draw in (
        lambda seed: gamma_arrivals(50, 2.0, 4.0, seed),
        lambda seed: power_law(50, 100, 0.3, seed),
        lambda seed: uniform_lengths(50, 8, 512, 16, seed),
    ):
        assert (draw(3) == draw(3)).all()
        assert (draw(3) != draw(4)).any()


def test_lengths_stay_in_their_bounds():
    drawn = uniform_lengths(MANY, low=8, high=512, scale=16, seed=5)
    assert (drawn.min(), drawn.max()) == (1, 32)
    assert 16 < drawn.mean() < 16.5
