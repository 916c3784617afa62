"""Exploration goes to near-equals only, for no more than the stated share of requests, and always the same way."""

import pytest

from router.choice import BASE_BETTER, EXPLANATION, INTERFACE_TASK, LOW_CONFIDENCE, MATCHED, SESSION, TASK
from router.exploring import EXPLORED, NEAR_EQUAL, explored
from router.selection import Candidate, Choice
from specs.evidence import Evidence, Posterior

CANDIDATES = (
    Candidate("best", 0.9, 1.0, 0.6),
    Candidate("near", 0.8, 0.9, 0.6 - NEAR_EQUAL / 2),
    Candidate("untold", 0.8, 0.9, 0.6 - 0.9 * NEAR_EQUAL),
    Candidate("far", 0.7, 0.5, 0.6 - 2 * NEAR_EQUAL),
)
CHOICE = Choice("best", 0.9, 0.9, MATCHED, CANDIDATES, 0.3, (("task", 0.9),))
TOLD = Evidence(1, 0.0, "f", posteriors={"task": {"best": Posterior(0.3, 1, 9), "near": Posterior(0.25, 1, 5)}})


def test_off_by_default_and_at_most_the_stated_share() -> None:
    ids = [f"request {number}" for number in range(4000)]
    assert all(explored(CHOICE, one, 0.0, TOLD) is CHOICE for one in ids)
    share = sum(explored(CHOICE, one, 0.1, TOLD) is not CHOICE for one in ids) / len(ids)
    assert 0.08 < share < 0.12


def test_a_near_equal_that_least_is_known_of_answers_and_the_reason_says_so() -> None:
    found = explored(CHOICE, "r", 1.0, TOLD)
    assert (found.learnware_id, found.reason) == ("untold", MATCHED + EXPLORED)
    assert explored(CHOICE, "r", 1.0, None).learnware_id == "near"  # of equals the better one
    assert explored(CHOICE, "r", 1.0, TOLD) == found


def test_the_base_model_gives_way_to_near_equals_alone() -> None:
    base = CHOICE._replace(learnware_id=None, reason=BASE_BETTER, base=0.6 + NEAR_EQUAL * 1.5)
    assert explored(base, "r", 1.0, None) is base
    assert explored(base._replace(base=0.6), "r", 1.0, None).learnware_id == "best"


def test_what_was_asked_for_by_name_is_left_alone() -> None:
    named = Choice("best", 0.0, 0.0, "named", ())
    assert explored(named, "r", 1.0, None) is named


@pytest.mark.parametrize("reason", [EXPLANATION, INTERFACE_TASK])
def test_what_must_stay_with_the_base_model_stays_there(reason: str) -> None:
    kept = CHOICE._replace(learnware_id=None, reason=reason, base=0.6)
    assert explored(kept, "r", 1.0, None) is kept


def test_an_earlier_turns_learnware_keeps_its_conversation() -> None:
    kept = CHOICE._replace(reason=SESSION)
    assert explored(kept, "r", 1.0, None) is kept


@pytest.mark.parametrize("reason", [TASK, BASE_BETTER, LOW_CONFIDENCE])
def test_a_whole_tasks_choice_is_left_alone_also_where_the_base_model_answers(reason: str) -> None:
    candidates = tuple(one._replace(quality=0.0) for one in CANDIDATES)
    chosen = "best" if reason == TASK else None
    task = CHOICE._replace(learnware_id=chosen, reason=reason, base=0.6, candidates=candidates)
    assert explored(task, "r", 1.0, None) is task
