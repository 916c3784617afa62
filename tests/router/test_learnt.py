"""A learnt task is believed where its own points are the nearest, and nowhere else."""

import numpy as np
import pytest

from router.learnt import LEAST, LearntTasks
from router.task_model import Probabilities
from specs.encoding.ask_encoder import ASK_DIM
from specs.rkme import ReducedSet


def vector(material: float, ask: float) -> np.ndarray:
    found = np.zeros(4 + ASK_DIM, np.float32)
    found[0], found[-1] = material, ask
    return found


LEARNT = LearntTasks(["d-x", "learnt:a"], {"learnt:a": ReducedSet(vector(0, 1)[None], np.ones(1))}, ["d-x"])
AT = Probabilities(np.array([0.2, 0.5]), np.array([0.3]))


def test_nearer_to_its_own_points_it_is_believed() -> None:
    found = LEARNT.believed(vector(0.1, 1), [vector(0, 0)[None]], AT)
    assert found.tasks.tolist() == [0.2, 0.5]


def test_nearer_to_a_learnwares_points_its_probability_goes_to_the_others() -> None:
    found = LEARNT.believed(vector(0.1, 0.1), [vector(0, 5)[None], vector(0, 0)[None].astype(np.float16)], AT)
    assert found.tasks == pytest.approx([0.4, 0])
    assert found.home == pytest.approx([0.6])


def test_the_ask_counts_more_than_the_material() -> None:
    known = [vector(1, 0.2)[None]]
    assert LEARNT.believed(vector(1, 1), known, AT).tasks[1] == 0.5  # 1 away in material, against 0.8 in the ask


def test_an_improbable_learnt_task_is_not_looked_at() -> None:
    assert LEARNT.doubted(AT)
    assert not LEARNT.doubted(Probabilities(np.array([0.9, LEAST / 2]), np.array([0.1 - LEAST / 2])))
    assert not LearntTasks(["d-x"], {}, ["d-x"]).doubted(AT)


def test_the_share_of_learnt_tasks_is_that_of_all_of_them() -> None:
    points = ReducedSet(vector(0, 1)[None], np.ones(1))
    tasks = LearntTasks(["learnt:a", "d-x", "learnt:b"], {"learnt:b": points, "learnt:a": points}, ["d-x"])
    assert tasks.share(Probabilities(np.array([0.1, 0.6, 0.2]), np.array([0.1]))) == pytest.approx(0.3)
    assert LearntTasks(["d-x"], {}, ["d-x"]).share(Probabilities(np.array([0.9]), np.array([0.1]))) == 0


def test_where_nothing_else_is_possible_all_stays() -> None:
    alone = Probabilities(np.array([0.0, 1.0]), np.array([0.0]))
    assert LEARNT.believed(vector(0, 0), [vector(0, 0)[None]], alone) is alone


def test_the_plain_models_probabilities_get_none_for_learnt_tasks() -> None:
    tasks = LearntTasks(["d-x", "learnt:a", "d-y"], {}, ["d-x", "d-y"])
    assert tasks.without(Probabilities(np.array([0.6, 0.3]), np.array([0.1]))).tasks.tolist() == [0.6, 0, 0.3]
