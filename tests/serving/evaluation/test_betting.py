"""Intervals by betting: they hold at all looks at once, find what is there, and no source decides alone."""

import numpy as np
import pytest

from serving.evaluation.betting import LEVEL, Value, bounds, evidence_above, evidence_below


def values(numbers: list[float], source: str = "one") -> list[Value]:
    return [Value(source, number) for number in numbers]


def test_without_values_nothing_is_known() -> None:
    assert bounds([]) == (0, 0.0, -1.0, 1.0)
    assert evidence_above([], 0.0) == evidence_below([], 0.0) == 1.0


def test_the_interval_closes_around_the_mean() -> None:
    alternating = values([1.0, -1.0, 0.0, 0.0] * 200)
    found = bounds(alternating)
    assert found.values == 800
    assert found.mean == 0.0
    assert -0.12 < found.low < -0.05
    assert 0.05 < found.high < 0.12
    assert bounds(alternating[:80]).low < found.low
    assert bounds([Value(one.source, -one.value) for one in alternating])[2:] == (-found.high, -found.low)


@pytest.mark.parametrize(("number", "most"), [(-1.0, 12), (-0.5, 20), (-0.2, 60)])
def test_a_difference_that_never_varies_is_found_soon(number: float, most: int) -> None:
    assert evidence_below(values([number] * most), 0.0) >= 1 / LEVEL
    assert evidence_below(values([number] * 3), 0.0) < 1 / LEVEL
    assert evidence_above(values([number] * most), 0.0) < 1


@pytest.mark.slow
def test_whoever_looks_after_each_value_is_wrong_as_seldom_as_said() -> None:
    generator = np.random.default_rng(3)
    wrong, runs, naive = 0, 200, 0
    for _ in range(runs):
        drawn = generator.choice([-1.0, 0.0, 1.0], 150)
        looks = range(5, 151, 5)
        wrong += any(evidence_below(values(list(drawn[:n])), 0.0) >= 1 / LEVEL for n in looks)
        errors = [drawn[:n].mean() + 1.96 * drawn[:n].std() / n**0.5 for n in looks]
        naive += any(error < 0 for error in errors)
    assert wrong <= LEVEL * runs + 2
    assert naive > 3 * LEVEL * runs  # so the test can fail


def test_the_order_of_values_says_nothing() -> None:
    numbers = [1.0, -1.0, -1.0, 0.3, -0.2] * 6
    assert evidence_below(values(numbers), 0.0) == pytest.approx(evidence_below(values(sorted(numbers)), 0.0))


def test_one_source_of_three_decides_nothing_alone() -> None:
    liar = values([-1.0] * 100, "liar")
    honest = values([0.0] * 40, "a") + values([0.0] * 40, "b")
    assert evidence_below(liar + honest, 0.0) < 1 / LEVEL
    assert bounds(liar + honest).high > 0
    # of two, nobody can tell which one is odd
    assert evidence_below(liar + honest[:40], 0.0) >= 1 / LEVEL
    assert evidence_below(liar + values([-1.0] * 12, "a") + honest[40:], 0.0) > 1


def test_very_much_evidence_is_a_number() -> None:
    assert np.isfinite(evidence_below(values([-1.0] * 5000), 0.0))
