"""The rule applied to a market that the test plays, over a real log of decisions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.config_evaluation import CanarySettings
from serving.decisions.store import DecisionStore
from serving.evaluation.canary_keeper import CanaryKeeper
from tests.serving.decisions.test_store import replica_half

SINCE = 1000.0
SHA = "a" * 64
VERSION = f"finance/x@canary@{SHA[:12]}"


class Market:
    """Canaries that run, and what was asked of them."""

    def __init__(self, *ids: str) -> None:
        self.running = [
            {"id": one, "sha256": SHA, "engine_name": f"{one}@canary@{SHA[:12]}", "share": 0.05, "since": SINCE}
            for one in ids
        ]
        self.asked: list[tuple[str, str, str, str]] = []
        self.broken: set[str] = set()

    async def canaries(self) -> list[dict[str, Any]]:
        return list(self.running)

    async def promote(self, learnware_id: str, sha256: str, reason: str) -> None:
        self._act("promote", learnware_id, sha256, reason)

    async def roll_back(self, learnware_id: str, sha256: str, reason: str) -> None:
        self._act("roll back", learnware_id, sha256, reason)

    def _act(self, what: str, learnware_id: str, sha256: str, reason: str) -> None:
        if learnware_id in self.broken:
            raise RuntimeError("the disk is full")
        self.asked.append((what, learnware_id, sha256, reason))
        self.running = [one for one in self.running if one["id"] != learnware_id]


async def run(work: Callable[[], Any]) -> Any:
    return work()


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "d.sqlite", 10_000, 1e6)


def answered(
    store: DecisionStore, count: int, canary: float, current: float, learnware: str = "finance/x", **changes: Any
) -> None:
    """Records with feedback: of each four one is the canary's; a share of either is right."""
    right = {True: 0.0, False: 0.0}
    for number in range(count):
        own = number % 4 == 3
        before, right[own] = right[own], right[own] + (canary if own else current)
        half = replica_half(
            number,
            id=f"{learnware}-{number}",
            decision=None,
            time=SINCE + 1 + number,
            learnware=f"{learnware}@canary" if own else learnware,
            version=f"{learnware}@canary@{SHA[:12]}" if own else f"{learnware}@old",
            reason="matched:canary" if own else "matched",
            **changes,
        )
        store.add([half])
        label = "right" if int(right[own]) > int(before) else "wrong"
        if half["status"] == 200:
            assert store.feedback("alice", half["id"], {"label": label}, "alice") is not None


def keeper(market: Market, store: DecisionStore, acts: bool = True, **settings: Any) -> CanaryKeeper:
    rule = CanarySettings.model_validate(settings)
    return CanaryKeeper(market, store.comparisons, rule, run, acts=acts, clock=lambda: 5000.0)


async def test_a_bad_canary_is_rolled_back_and_told_of(store: DecisionStore) -> None:
    market = Market("finance/x")
    answered(store, 120, canary=0.0, current=1.0)
    await keeper(market, store).look()
    ((what, learnware, sha256, reason),) = market.asked
    assert (what, learnware, sha256) == ("roll back", "finance/x", SHA)
    assert "worse" in reason
    (known,) = store.comparisons.canaries()
    assert (known["state"], known["verdict"], known["answers"]) == ("rolled back", "worse", 30)
    assert (known["version"], known["share"], known["until"]) == (VERSION, 0.05, 5000.0)
    assert known["evidence"]["feedback"] == {"canary": [30, 0.0], "current": [90, 1.0]}
    assert known["evidence"]["pairs"]["feedback"]["win_rate"] == 0.0
    await keeper(market, store).look()  # it is over, and stays so
    assert [one["state"] for one in store.comparisons.canaries()] == ["rolled back"]


async def test_a_good_one_is_promoted(store: DecisionStore) -> None:
    market = Market("finance/x")
    answered(store, 400, canary=1.0, current=0.75)
    await keeper(market, store).look()
    assert [one[:2] for one in market.asked] == [("promote", "finance/x")]
    assert store.comparisons.canaries(state="promoted")[0]["verdict"] == "better"


async def test_where_it_does_not_decide_it_says_what_it_would_do(store: DecisionStore) -> None:
    market = Market("finance/x")
    answered(store, 120, canary=0.0, current=1.0)
    await keeper(market, store, acts=False).look()
    assert market.asked == []
    (known,) = store.comparisons.canaries()
    assert (known["state"], known["verdict"], known["until"]) == ("running", "worse", None)
    assert "would be rolled back; canary.decide is off" in known["why"]


async def test_requests_before_the_canary_and_of_others_do_not_count(store: DecisionStore) -> None:
    market = Market("finance/x")
    answered(store, 120, canary=0.0, current=1.0, learnware="finance/other")
    market.running[0]["since"] = "1970-01-01T00:33:20+00:00"  # 2000
    answered(store, 120, canary=0.0, current=1.0)
    await keeper(market, store).look()
    assert market.asked == []
    (known,) = store.comparisons.canaries()
    assert (known["answers"], known["verdict"]) == (0, "waiting")


async def test_one_that_cannot_be_changed_does_not_concern_another(store: DecisionStore) -> None:
    market = Market("finance/x", "finance/y")
    market.broken.add("finance/x")
    for name in ("finance/x", "finance/y"):
        answered(store, 120, canary=0.0, current=1.0, learnware=name)
    await keeper(market, store).look()
    assert [one[1] for one in market.asked] == ["finance/y"]
    market.broken.clear()
    await keeper(market, store).look()
    assert [one[1] for one in market.asked] == ["finance/y", "finance/x"]


async def test_failures_alone_roll_back(store: DecisionStore) -> None:
    market = Market("finance/x")
    answered(store, 60, canary=0.0, current=0.0, status=500)
    await keeper(market, store).look()
    assert market.asked == []  # both fail: that is no fault of the canary
    for number in range(40):
        store.add(
            [
                replica_half(
                    number,
                    id=f"good-{number}",
                    time=SINCE + 100 + number,
                    decision=None,
                    learnware="finance/x",
                    reason="matched",
                    version="finance/x@old",
                )
            ]
        )
        bad = {"learnware": "finance/x@canary", "version": VERSION, "reason": "matched:canary", "status": 502}
        store.add([replica_half(number, id=f"bad-{number}", time=SINCE + 100.5 + number, decision=None, **bad)])
    await keeper(market, store).look()
    assert [one[:2] for one in market.asked] == [("roll back", "finance/x")]
    assert "fails" in market.asked[0][3]


async def test_one_that_an_operator_ended_is_over(store: DecisionStore) -> None:
    market = Market("finance/x")
    await keeper(market, store).look()
    assert [one["state"] for one in store.comparisons.canaries()] == ["running"]
    market.running = []
    await keeper(market, store).look()
    (known,) = store.comparisons.canaries()
    assert (known["state"], known["until"]) == ("ended", 5000.0)
    assert "by hand" in known["why"]
