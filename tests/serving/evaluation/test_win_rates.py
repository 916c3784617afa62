"""Win rates and their intervals."""

import numpy as np
import pytest

from serving.evaluation.win_rates import win_rate, win_rate_of_scores


def test_a_tie_counts_half() -> None:
    found = win_rate(6, 2, 2)
    assert (found.comparisons, found.rate) == (10, 0.7)
    assert 0.35 < found.low < 0.7 < found.high < 0.95


def test_nothing_compared_is_nothing_known() -> None:
    assert win_rate(0, 0, 0)[4:] == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "ends"), [((3, 0, 0), (0.3, 1.0)), ((0, 3, 0), (0.1, 0.9)), ((0, 0, 3), (0.0, 0.7))]
)
def test_a_few_that_are_alike_leave_the_interval_open(counts: tuple[int, int, int], ends: tuple[float, float]) -> None:
    found = win_rate(*counts)
    low, high = ends
    assert abs(found.low - low) < 0.2
    assert abs(found.high - high) < 0.2
    assert found.high - found.low > 0.2


def test_the_interval_holds_what_it_promises() -> None:
    generator = np.random.default_rng(1)
    for shares in ((0.3, 0.5, 0.2), (0.05, 0.9, 0.05), (0.8, 0.1, 0.1)):
        truth, held = shares[0] + shares[1] / 2, 0
        for _ in range(400):
            found = win_rate(*generator.multinomial(60, shares))
            held += found.low <= truth <= found.high
        assert 0.92 <= held / 400 <= 1.0


def test_scores_of_unlike_requests_compare_all_pairs() -> None:
    found = win_rate_of_scores([0.0, 0.5, 1.0], [0.5])
    assert (found.wins, found.ties, found.losses) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert found.rate == pytest.approx(0.5)
    assert win_rate_of_scores([], [1.0]).comparisons == 0
    # equal models of labels that are right four times of five: neither wins
    assert win_rate_of_scores([1, 1, 1, 1, 0] * 20, [1, 1, 1, 1, 0] * 4).rate == pytest.approx(0.5)


def test_unpaired_scores_tell_less_than_their_number() -> None:
    many = win_rate_of_scores([0.0, 1.0] * 500, [1.0, 0.0] * 20)
    few = win_rate_of_scores([0.0, 1.0] * 3, [1.0, 0.0] * 20)
    assert many.comparisons == few.comparisons == 40
    assert few.high - few.low > 1.5 * (many.high - many.low)
