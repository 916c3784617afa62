"""The metric and the index: exact against the definition, two stages against exact."""

import numpy as np
import pytest
from numpy.typing import NDArray

from specs.errors import InvalidSpecification
from specs.index import SpecificationIndex
from specs.metric import fit_metric
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
