"""No tenant has more than its share in a mean, and one that tells the opposite of all others moves it little."""

import numpy as np
import pytest

from serving.feedback.robust import bounded_weights, robust_mean


def mean(
    values: list[float], tenants: list[str], share: float = 0.34, weights: list[float] | None = None
) -> tuple[float, float]:
    found = robust_mean(values, weights or [1.0] * len(values), tenants, share, 4.0, 0.2)
    return found.value, found.weight


def test_a_lone_tenant_is_bounded_beside_the_prior() -> None:
    value, weight = mean([1.0] * 100, ["a"] * 100)
    assert value == 1.0
    assert weight == pytest.approx(0.34 * (4 + weight))
    assert mean([1.0] * 100, ["a"] * 100, share=1.0)[1] == 100


def test_three_tenants_who_say_equally_much_are_not_bounded() -> None:
    assert mean([1.0] * 30, ["a", "b", "c"] * 10)[1] == 30


def test_no_tenant_has_more_than_its_share_of_the_whole() -> None:
    bounded = bounded_weights(np.array([1000.0, 5.0, 5.0]), 0.34, 4.0)
    assert bounded[0] == pytest.approx(0.34 * (4 + bounded.sum()))
    assert bounded[1:].tolist() == [5, 5]


def test_one_of_ten_that_says_the_opposite_moves_the_mean_less_than_its_share() -> None:
    tenants = [f"t{number}" for number in range(10) for _ in range(20)]
    values = [-0.6 if tenant == "t0" else 0.6 for tenant in tenants]
    value, _ = mean(values, tenants)
    assert value > 0.6 - 0.1 * 1.2 / 3  # plainly averaged it would be 0.48
    assert value < 0.6


def test_what_tenants_differ_by_chance_is_left_alone() -> None:
    values, tenants = [0.3, 0.5, 0.4, 0.6], ["a", "b", "c", "d"]
    assert mean(values, tenants)[0] == pytest.approx(0.45)


def test_older_pieces_count_less() -> None:
    assert mean([1.0, 0.0], ["a", "b"], weights=[1.0, 0.5], share=1.0)[0] == pytest.approx(1 / 1.5)
