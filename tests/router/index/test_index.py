"""The metric and the index: exact against the definition, two stages against exact, changed against new."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from router.index.index import SpecificationIndex
from router.index.metric import fit_metric
from specs.errors import InvalidSpecification
from specs.rkme import ReducedSet

GAMMA = 0.5
Sets = list[tuple[NDArray[np.float32], NDArray[np.float64]]]


def random_sets(count: int, dim: int = 12, seed: int = 0) -> Sets:
    generator = np.random.default_rng(seed)
    sets = []
    for _ in range(count):
        size = int(generator.integers(3, 12))
        points = generator.normal(size=dim) * 3 + generator.normal(size=(size, dim))
        sets.append((points.astype(np.float32), generator.dirichlet(np.ones(size))))
    return sets


def by_definition(sets: Sets, x: NDArray[np.float32]) -> NDArray[np.float64]:
    means = [(weights * np.exp(-GAMMA / 2 * ((points - x) ** 2).sum(1))).sum() for points, weights in sets]
    return np.log(means) / GAMMA


def test_closeness_is_the_log_of_the_weighted_kernel_mean() -> None:
    sets = random_sets(20)
    x = sets[4][0][1] + np.float32(0.3)
    index = SpecificationIndex(sets, GAMMA)
    expected = by_definition(sets, x)
    assert index.exact
    assert index.all_values(x) == pytest.approx(expected, rel=1e-3, abs=1e-2)
    found = index.search(x, 3)
    assert list(found.owners) == list(np.argsort(-expected)[:3])
    assert found.values == pytest.approx(np.sort(expected)[::-1][:3], rel=1e-3, abs=1e-2)


def test_two_stages_find_what_scoring_everything_finds() -> None:
    sets = random_sets(600)
    generator = np.random.default_rng(1)
    index = SpecificationIndex(sets, GAMMA, exact=False)
    hits = 0
    for _ in range(200):
        points = sets[int(generator.integers(600))][0]
        x = (points[0] + generator.normal(size=12)).astype(np.float32)
        found = index.search(x, 5)
        hits += int(found.owners[0] == index.all_values(x).argmax())
        assert found.values == pytest.approx(index.all_values(x)[found.owners], rel=1e-4, abs=1e-3)
    assert hits >= 198


def test_far_away_vectors_get_finite_values() -> None:
    index = SpecificationIndex(random_sets(5), GAMMA)
    assert np.isfinite(index.all_values(np.full(12, 1e4, np.float32))).all()


def test_asking_for_more_than_there_are_gives_all() -> None:
    assert len(SpecificationIndex(random_sets(3), GAMMA).search(np.zeros(12, np.float32), 10).owners) == 3


def test_an_empty_index_is_refused() -> None:
    with pytest.raises(InvalidSpecification, match="at least one learnware"):
        SpecificationIndex([], GAMMA)


Change = tuple[int, list[int]]
CHANGES = st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 200), max_size=8)), min_size=1, max_size=8)
"""How many are added, and which of those that are there (modulo their number) are removed."""


def applied(exact: bool, changes: list[Change]) -> tuple[SpecificationIndex, Sets, list[int]]:
    """The changed index, every set that ever was in it by number, and the numbers that still are."""
    sets, later = random_sets(60), random_sets(60, seed=1)
    index, alive = SpecificationIndex(sets, GAMMA, exact), list(range(60))
    for count, picks in changes:
        removed = sorted({alive[pick % len(alive)] for pick in picks})[: len(alive) - 1]
        added = [later[(len(sets) + number) % 60] for number in range(count)]
        index = index.changed(added, removed)
        alive = [number for number in alive if number not in removed] + list(range(len(sets), len(sets) + count))
        sets = sets + added
    return index, sets, alive


def probe_points(sets: Sets) -> list[NDArray[np.float32]]:
    generator = np.random.default_rng(3)
    return [(points[0] + generator.normal(size=12)).astype(np.float32) for points, _ in sets[::7]]


@settings(deadline=None, max_examples=40)
@given(CHANGES)
def test_a_changed_index_answers_as_a_new_one(changes: list[Change]) -> None:
    index, sets, alive = applied(True, changes)
    new = SpecificationIndex([sets[number] for number in alive], GAMMA, True)
    assert len(index) == len(new) == len(alive)
    assert index.check_integrity() == []
    for x in probe_points(sets):
        values = index.all_values(x)
        assert values[alive] == pytest.approx(new.all_values(x), rel=1e-5, abs=1e-4)
        assert np.isfinite(values).sum() == len(alive)
        assert index.search(x, 4).values == pytest.approx(new.search(x, 4).values, rel=1e-5, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(CHANGES)
def test_two_stages_find_the_nearest_of_what_is_left(changes: list[Change]) -> None:
    index, sets, alive = applied(False, changes)
    assert index.check_integrity() == []
    for x in probe_points(sets):
        values, found = index.all_values(x), index.search(x, 4)
        assert set(found.owners.tolist()) <= set(alive)
        assert found.values == pytest.approx(values[found.owners], rel=1e-4, abs=1e-3)
        assert found.values[0] == pytest.approx(values.max(), rel=1e-4, abs=1e-3)  # 27 cells, of which most are probed


def test_recall_stays_after_half_of_the_learnwares_have_changed() -> None:
    sets, later = random_sets(600), random_sets(300, seed=5)
    index = SpecificationIndex(sets, GAMMA, exact=False)
    for start in range(0, 300, 10):
        index = index.changed(later[start : start + 10], range(2 * start, 2 * start + 20, 2))
    assert index.changes == 600
    assert index.check_integrity() == []
    generator = np.random.default_rng(6)
    hits = 0
    for number in range(200):
        x = (later[number][0][0] + generator.normal(size=12)).astype(np.float32)
        hits += int(index.search(x, 5).owners[0] == index.all_values(x).argmax())
    assert hits >= 198


def test_when_nearly_all_are_gone_the_rest_is_still_found() -> None:
    index = SpecificationIndex(random_sets(600), GAMMA, exact=False).changed([], range(599))
    assert list(index.search(np.zeros(12, np.float32), 5).owners) == [599]
    with pytest.raises(InvalidSpecification, match="at least one learnware"):
        index.changed([], [599])


def test_the_index_before_a_change_stays_as_it_was() -> None:
    index = SpecificationIndex(random_sets(300), GAMMA, exact=False)
    xs = probe_points(random_sets(50))
    before = [index.search(x, 3) for x in xs]
    index.changed(random_sets(20, seed=9), [0, 1, 2])
    for x, found in zip(xs, before, strict=True):
        assert np.array_equal(index.search(x, 3).owners, found.owners)


def test_an_index_that_is_not_whole_says_so() -> None:
    def broken() -> SpecificationIndex:
        return SpecificationIndex(random_sets(60), GAMMA, exact=False).changed(random_sets(5, seed=2), [3])

    index = broken()
    index._main.points[7] += 5
    assert "other points" in index.check_integrity()[0]
    index = broken()
    assert index._cells is not None
    index._cells._lists[1] = index._cells._lists[0]
    assert "points where there are" in index.check_integrity()[0]
    index = broken()
    index._alive = index._alive[:-1]
    assert "marked" in index.check_integrity()[0]
    index = broken()
    index._main.points[0, 0] = np.nan
    assert "not finite" in index.check_integrity()[0]


def test_the_metric_keeps_what_tells_classes_apart_and_drops_what_varies_in_all() -> None:
    generator = np.random.default_rng(0)

    def cloud(centre: float) -> ReducedSet:
        points = generator.normal(scale=[0.1, 5.0, 0.1], size=(50, 3))
        points[:, 0] += centre
        return ReducedSet(points.astype(np.float32), np.full(50, 1 / 50))

    metric = fit_metric([[cloud(-1)], [cloud(1)]], cloud(0), shrinkage=0.01, rank=1)
    direction = np.abs(metric.projection[:, 0])
    assert metric.projection.shape == (3, 1)
    assert direction[0] > 10 * direction[1]
