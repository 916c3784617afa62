"""Feedback replayed on a made matrix: what judges is never told, liars tell the opposite, and the way is measured."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.common.scores import BASE, TaskScores
from benchmarks.common.tasks import STARTER_LEARNWARES
from benchmarks.learning import market
from benchmarks.learning.replay import (
    Reached,
    ReplayTask,
    lying,
    reached,
    replay,
    right_answers,
    scores_alone,
    way,
)
from router.selection import Selector
from router.settings import SelectionSettings
from serving.config_insight import FeedbackSettings
from serving.feedback.pieces import Piece
from specs.encoding.encoder import load_prompt_encoder
from specs.learnware import load_learnwares
from tests.router.made_learnwares import HARMLESS, capability, learnware, probe, request, specification_of

ROWS, TOLD = 24, 12


@pytest.fixture(scope="module")
def selector() -> Selector:
    made = [
        learnware(name, specification_of(name), [name], capability({f"d-{name}": probe(0.8)}, HARMLESS))
        for name in ("recipe", "spam")
    ]
    return Selector(made, load_prompt_encoder(), SelectionSettings())


@pytest.fixture(scope="module")
def task() -> ReplayTask:
    """Rows that `spam` answers right, `recipe` wrong, and the base model every second one of."""
    right = {BASE: np.arange(ROWS) % 2 == 0, "spam": np.ones(ROWS, bool), "recipe": np.zeros(ROWS, bool)}
    among = {name: np.where(values, 0.8, 0.2) for name, values in right.items()}
    gold = {name: np.full(ROWS, -5.0) for name in right}
    vectors = load_prompt_encoder().encode([request("species", 300 + number) for number in range(ROWS)])
    return ReplayTask("d-species", vectors, (None,) * ROWS, TaskScores(list(range(ROWS)), right, gold, among), TOLD)


def test_with_right_answers_the_choice_reaches_the_oracle(selector: Selector, task: ReplayTask) -> None:
    settings = FeedbackSettings(learn=True)
    steps = dict(replay([task], selector, settings, right_answers, (0, TOLD), ["a", "b", "c"], True))
    seen = {count: reached(task, taught) for count, taught in steps.items()}
    evidence = steps[TOLD].evidence
    assert evidence is not None
    assert sum(one.pieces for one in evidence.tasks) == TOLD
    assert seen[0] == Reached(0.5, 0.5, 1.0, 0.5, 0.0)
    assert seen[TOLD] == Reached(1.0, 0.5, 1.0, 0.5, 0.0)
    assert way({"d-species": seen[0]}) == 0
    assert way({"d-species": seen[TOLD]}) == 1


def test_liars_tell_the_opposite_and_others_do_not(selector: Selector, task: ReplayTask) -> None:
    for tell in (right_answers, scores_alone(0.0)):
        honest = tell(task, 1, "a", selector)
        other = lying(tell, frozenset({"b"}))(task, 1, "a", selector)
        assert (other.gains, other.score, other.base) == (honest.gains, honest.score, honest.base)
        liar = lying(tell, frozenset({"a"}))(task, 1, "a", selector)
        assert {name: -gain.value for name, gain in honest.gains.items()} == {
            name: gain.value for name, gain in liar.gains.items()
        }
        assert honest.score is None or liar.score == 1 - honest.score


def test_every_tenant_tells_of_every_task_as_often(selector: Selector, task: ReplayTask) -> None:
    told: Counter[tuple[str, str]] = Counter()

    def tell(one: ReplayTask, row: int, tenant: str, current: Selector) -> Piece:
        told[one.name, tenant] += 1
        return right_answers(one, row, tenant, current)

    both = [task, replace(task, name="d-other")]
    list(replay(both, selector, FeedbackSettings(learn=True), tell, (TOLD,), ["a", "b"], True))
    assert told == {(one.name, tenant): TOLD // 2 for one in both for tenant in ("a", "b")}


def test_a_learnware_that_was_not_measured_counts_as_the_worst(task: ReplayTask) -> None:
    assert task.quality("unknown").tolist() == task.quality("recipe").tolist()
    assert task.quality(None).mean() == 0.5


def test_the_way_sums_over_tasks_before_it_divides() -> None:
    alike = Reached(0.4, 0.5, 0.5, 0.5, 0.0)
    assert way({"x": Reached(0.9, 0.5, 0.9, 0.3, 0.0), "y": alike}) == pytest.approx(0.75)


def test_no_learnware_of_the_market_is_of_a_task_that_gives_feedback() -> None:
    made = {
        *market.TOPS,
        *market.NEGATED,
        *(one.replace("-top_", "-") for pair in market.MERGES.values() for one in pair),
    }
    assert len(market.TASKS) >= 9
    assert not made & set(market.TASKS)
    starters = {f"{one.domain}-{task}" for one in load_learnwares(STARTER_LEARNWARES) for task in one.tasks}
    assert starters & set(market.TASKS) == {market.WITHOUT}
