"""The joint choice around the policy: who stands in for whom, what a replica is asked for, how it is explained."""

from collections.abc import Mapping
from typing import Any

import pytest

from router.choice import LOW_CONFIDENCE, MATCHED, NAMED, SESSION, TASK
from router.placement import PlacementSettings
from router.placer import JointChoice, options_of
from router.selection import Candidate, Choice

ADAPTERS = {"best": "best@1", "near": "near@1", "far": "far@1"}
CANDIDATES = (Candidate("best", 0.9, 1.0, 0.7), Candidate("near", 0.89, 0.99, 0.69), Candidate("far", 0.5, 0.2, 0.1))


def choice(reason: str = MATCHED, learnware: str | None = "best") -> Choice:
    return Choice(learnware, 0.9, 0.95, reason, CANDIDATES)


class Known:
    """Replicas that say what they are told to, and note what they are asked."""

    def __init__(self, **adapters: Mapping[str, str]) -> None:
        self.adapters = adapters
        self.asked: list[tuple[str, str, Any]] = []

    def reports(self) -> dict[str, Mapping[str, Any]]:
        return {name: {"adapters": tiers, "running": 0, "waiting": 0} for name, tiers in self.adapters.items()}

    def call(self, name: str, method: str, *arguments: Any) -> None:
        self.asked.append((name, method, *arguments))


def joint(known: Known, affinity: bool = True) -> tuple[JointChoice, list[float]]:
    now = [0.0]
    return JointChoice(known, 0.05, PlacementSettings(affinity=affinity), clock=lambda: now[0]), now


@pytest.mark.parametrize("reason", [MATCHED, SESSION])
def test_a_resident_learnware_stands_in_and_the_reason_says_so(reason: str):
    decided, placed = joint(Known(a={"near@1": "device"}, b={}))[0].decide(choice(reason), ADAPTERS)
    assert (decided.learnware_id, decided.reason, decided.score) == ("near", f"{reason}:resident", 0.89)
    assert placed is not None
    assert placed.replica == "a"


@pytest.mark.parametrize("reason", [NAMED, TASK])
def test_nobody_stands_in_for_a_learnware_that_was_named_or_keeps_a_task(reason: str):
    decided, placed = joint(Known(a={"near@1": "device"}, b={}))[0].decide(choice(reason), ADAPTERS)
    assert decided == choice(reason)
    assert placed is not None
    assert placed.option.adapter == "best@1"


def test_the_base_model_needs_no_adapter():
    base = choice(LOW_CONFIDENCE, None)
    decided, placed = joint(Known(a={"best@1": "device"}))[0].decide(base, ADAPTERS)
    assert decided == base
    assert placed is not None
    assert placed.option.adapter is None


def test_a_learnware_that_the_engines_do_not_know_is_not_an_option():
    assert [one.learnware for one in options_of(choice(), {"best": "best@1", "far": "far@1"})] == ["best", "far"]


def test_requests_sent_within_one_report_spread_over_replicas():
    known = Known(a={"best@1": "device"}, b={})
    decide = joint(known)[0].decide
    placed = [decide(choice(NAMED), ADAPTERS)[1] for _ in range(20)]
    assert {one.replica for one in placed if one is not None} == {"a", "b"}


def test_without_affinity_or_without_replicas_any_will_do():
    assert joint(Known(a={"near@1": "device"}), affinity=False)[0].decide(choice(), ADAPTERS) == (choice(), None)
    assert joint(Known())[0].decide(choice(), ADAPTERS) == (choice(), None)


def test_an_adapter_on_disk_is_asked_for_once_until_the_next_report_is_due():
    known = Known(a={"far@1": "device"})
    decider, now = joint(known)
    for moment in (0.0, 0.5, 1.2):
        now[0] = moment
        decider.decide(choice(NAMED), ADAPTERS)
    assert known.asked == [("a", "prefetch", "best@1")] * 2
    decider.decide(choice(NAMED, "far"), ADAPTERS)
    assert len(known.asked) == 2


def test_a_replica_that_has_not_reported_is_not_asked():
    known = Known(a={})
    joint(known)[0].decide(choice(), ADAPTERS)
    assert known.asked == []


def test_the_explanation_shows_each_candidates_tiers_and_why_the_replica():
    known = Known(a={"near@1": "device", "best@1": "host"}, b={})
    decider, _ = joint(known)
    decided, explained = decider.explain(choice(), ADAPTERS)
    assert decided.learnware_id == "near"
    assert [one["learnware"] for one in explained["candidates"]] == ["best", "near", "far"]
    assert [one["expected"] for one in explained["candidates"]] == [0.7, 0.69, 0.1]
    assert [one["may_answer"] for one in explained["candidates"]] == [True, True, False]
    assert explained["candidates"][0]["tiers"] == {"a": "host", "b": "disk"}
    assert explained["candidates"][0]["home"] in ("a", "b")
    assert explained["replica"]["id"] == "a"
    assert explained["replica"]["tier"] == "device"
    assert explained["replica"]["requests"] == {"a": 0, "b": 0}
    assert known.asked == []


def test_the_explanation_works_before_any_replica_is_known():
    decided, explained = joint(Known())[0].explain(choice(), ADAPTERS)
    assert decided == choice()
    assert explained["replica"] is None
    assert explained["candidates"][0] == {"learnware": "best", "score": 0.9, "expected": 0.7}
