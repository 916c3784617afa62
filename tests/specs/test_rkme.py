"""The maths of reduced kernel mean embeddings, by property."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from specs.errors import InvalidSpecification
from specs.rkme import (
    ReducedSet,
    gaussian,
    local_gamma,
    project_to_simplex,
    reduce_points,
    simplex_minimum,
    squared_distances,
    squared_mmd,
)

sizes = st.integers(1, 12)
seeds = st.integers(0, 10_000)


def unit_rows(seed: int, rows: int, dim: int = 5) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).normal(size=(rows, dim))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)


def uniform(points: NDArray[np.float32]) -> ReducedSet:
    return ReducedSet(points, np.full(len(points), 1 / len(points)))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_projection_lands_on_the_simplex_and_no_other_simplex_point_is_nearer(values: list[float]) -> None:
    vector = np.array(values)
    projected = project_to_simplex(vector)
    assert projected.min() >= 0
    assert projected.sum() == pytest.approx(1)
    others = np.random.default_rng(0).dirichlet(np.ones(len(vector)), 50)
    distances = ((others - vector) ** 2).sum(1)
    assert ((projected - vector) ** 2).sum() <= distances.min() + 1e-9


@settings(max_examples=40)
@given(seeds, st.integers(2, 10))
def test_the_simplex_minimum_meets_the_optimality_conditions(seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(size, size))
    quadratic, linear = root @ root.T + 0.1 * np.eye(size), generator.normal(size=size)
    beta = simplex_minimum(quadratic, linear)
    gradient = quadratic @ beta - linear
    # At the minimum the gradient is equal on the support and nowhere smaller.
    assert beta.sum() == pytest.approx(1)
    assert gradient[beta > 1e-5].max() - gradient.min() < 1e-4 * max(1.0, float(np.abs(gradient).max()))


@given(seeds, seeds, sizes, sizes)
def test_squared_mmd_is_symmetric_not_negative_and_zero_on_itself(a: int, b: int, n: int, m: int) -> None:
    left, right = uniform(unit_rows(a, n)), uniform(unit_rows(b, m))
    distance = squared_mmd(left, right, 1.5)
    assert 0 <= distance <= 2
    assert distance == pytest.approx(squared_mmd(right, left, 1.5), abs=1e-9)
    assert squared_mmd(left, left, 1.5) == pytest.approx(0, abs=1e-9)


@given(seeds, sizes)
def test_repeating_every_point_changes_no_distance(seed: int, n: int) -> None:
    points, other = unit_rows(seed, n), uniform(unit_rows(seed + 1, 4))
    doubled = uniform(np.concatenate([points, points]))
    assert squared_mmd(uniform(points), other, 2.0) == pytest.approx(squared_mmd(doubled, other, 2.0), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_reduced_set_is_nearer_to_its_data_than_as_many_random_rows(seed: int) -> None:
    x, gamma = unit_rows(seed, 80), 1.0
    reduced = reduce_points(x, 15, gamma)
    assert reduced.weights.min() >= 0
    assert reduced.weights.sum() == pytest.approx(1)
    picked = x[np.random.default_rng(seed).choice(80, 15, replace=False)]
    assert squared_mmd(reduced, uniform(x), gamma) < squared_mmd(uniform(picked), uniform(x), gamma)


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_optimised_weights_beat_equal_ones(seed: int) -> None:
    x = unit_rows(seed, 60)
    reduced = reduce_points(x, 8, 1.0)
    equal = uniform(reduced.points)
    assert squared_mmd(reduced, uniform(x), 1.0) <= squared_mmd(equal, uniform(x), 1.0) + 1e-9


def test_reduction_finds_well_separated_clusters_and_their_shares() -> None:
    centres = np.eye(3, 6, dtype=np.float32)
    noise = np.random.default_rng(3).normal(scale=0.01, size=(100, 6))
    owners = np.repeat([0, 1, 2], [50, 30, 20])
    x = np.asarray(centres[owners] + noise, np.float32)
    reduced = reduce_points(x, 3, 1.0)
    order = squared_distances(centres, reduced.points).argmin(1)
    assert sorted(order) == [0, 1, 2]
    assert reduced.weights[order] == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


def test_repeated_rows_give_fewer_points_not_broken_ones() -> None:
    x = np.repeat(unit_rows(1, 3), 20, axis=0)
    reduced = reduce_points(x, 10, 1.0)
    assert len(reduced.points) == 3
    assert np.isfinite(reduced.points).all()


def test_the_kernel_width_follows_the_data() -> None:
    x = unit_rows(0, 50)
    assert local_gamma(x * 0.5) == pytest.approx(4 * local_gamma(x), rel=1e-3)
    assert gaussian(x, x, local_gamma(x)).diagonal() == pytest.approx(np.ones(50))


def test_nothing_to_reduce_is_refused() -> None:
    with pytest.raises(InvalidSpecification, match="at least one row"):
        reduce_points(np.empty((0, 4), np.float32), 3, 1.0)
