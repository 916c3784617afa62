"""The attacks find what is there to find, and nothing where nothing is."""

import numpy as np
import pytest

from benchmarks.privacy.attacks import Pool, Released, area_under_curve, attack
from benchmarks.privacy.measure import Vectors, in_domain_tasks, mean, points, summary_of
from specs.task import largest_auc, make_task_specification

DIM = 64
SIZE = 40


def pool_of(seed: int = 0, size: int = 2 * SIZE) -> Pool:
    """Unit vectors about a common direction, as a task's rows are."""
    vectors = np.random.default_rng(seed).normal(size=(size, DIM)) + 4 * np.eye(DIM)[0]
    return Pool((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


def halves(pool: Pool, count: int = 16) -> np.ndarray:
    generator = np.random.default_rng(1)
    inside = np.zeros((count, len(pool.vectors)), bool)
    for mask in inside:
        mask[generator.permutation(len(mask))[:SIZE]] = True
    return inside


def areas(make, pool: Pool | None = None) -> dict[str, float]:
    pool = pool or pool_of()
    inside = halves(pool)
    generator = np.random.default_rng(2)
    return attack(pool, [make(pool.vectors[mask], generator) for mask in inside], inside)


def test_the_area_counts_ties_half():
    assert area_under_curve(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0
    assert area_under_curve(np.array([0.0]), np.array([1.0])) == 0.0
    assert area_under_curve(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == 0.75


def test_published_rows_are_found_by_every_attack():
    found = areas(lambda rows, _: Released(rows, np.full(len(rows), 1 / len(rows)), 0.0))
    for name in ("nearest", "density", "shadow, nearest", "shadow, together"):
        assert found[name] > 0.99, name


def test_an_exact_mean_gives_its_rows_away_to_who_knows_the_candidates():
    assert areas(mean(None))["mean likelihood"] > 0.9


def test_what_has_nothing_to_do_with_the_rows_gives_nothing_away():
    found = areas(
        lambda _, generator: Released(generator.normal(size=(3, DIM)).astype(np.float32), np.full(3, 1 / 3), 0.1)
    )
    assert max(found.values()) < 0.56
    assert min(found.values()) > 0.44


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_no_attack_beats_what_mu_allows(mu: float):
    found = areas(mean(mu))
    assert max(found.values()) <= largest_auc(mu) + 0.02
    assert found["mean likelihood"] == pytest.approx(largest_auc(0.5 * mu), abs=0.06)


def test_fewer_points_and_more_noise_tell_less():
    many, few, noisy = (max(areas(points(*arguments)).values()) for arguments in ((26,), (2,), (2, 0.2)))
    assert many > few > noisy


def test_the_default_recipe_is_the_products_own():
    rows = pool_of().vectors
    made = make_task_specification(
        [str(number) for number in range(len(rows))], Vectors(rows), 1.0, np.random.default_rng(3)
    )
    released = mean(1.0)(rows, np.random.default_rng(3))
    assert (released.points[0] == made.mean).all()
    assert released.mean_noise == made.noise == pytest.approx(2 / len(rows))


def test_the_summary_names_the_best_attack_and_the_worst_task():
    summary = summary_of({"one": {"a": 0.5, "b": 0.7}, "two": {"a": 0.9, "b": 0.6}})
    assert (summary["best_attack"], summary["auc"]) == ("two", pytest.approx(0.75))
    assert summary["worst_task"] == {"task": "a", "auc": 0.9}
    assert summary["interval_95"][0] <= 0.75 <= summary["interval_95"][1]


def test_tasks_are_those_of_the_three_domains(tmp_path):
    for name in ("finance/a", "general/chat", "mathematics/b"):
        (tmp_path / f"{name}.train.jsonl").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.train.jsonl").touch()
    assert in_domain_tasks(tmp_path) == ["finance/a", "mathematics/b"]
