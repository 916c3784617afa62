"""A canary gets its share of what the rule gives to its learnware, and nothing else."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve")

from router.canaries import Canary, with_canary
from router.choice import CANARY, LOW_CONFIDENCE, MATCHED, SESSION, TASK, RoutedChoice
from router.deployment import LearnwareRouter
from router.exploring import EXPLORED, explored
from router.placer import options_of
from router.replay import compared
from router.selection import Candidate, Choice, next_best
from router.settings import SelectionSettings
from router.snapshot import Snapshot, SnapshotBuilder
from specs.learnware import Learnware
from specs.market.catalogue import Catalogue, Entry, static_catalogue
from specs.task import TASK_PREFIX
from tests.router.made_learnwares import HARMLESS, capability, learnware, probe, request, specification_of
from tests.router.test_decision_record import Recorder
from tests.router.test_deployment import QUESTION, STARTER, body, chosen, chosen_id, make_router

__all__ = ["make_router"]

CANDIDATES = (Candidate("x", 0.9, 1.0, 0.8), Candidate("y", 0.8, 0.99, 0.79))
CHOICE = Choice("x", 0.9, 0.9, MATCHED, CANDIDATES, 0.3, (("task", 0.9),), 0.5)
IDS = [f"request {number}" for number in range(4000)]


def canaries(share: float) -> dict[str, Canary]:
    return {"x": Canary("x@canary", "x@canary@222", share)}


def test_the_stated_share_goes_to_the_canary_and_always_the_same_requests() -> None:
    drawn = [one for one in IDS if with_canary(CHOICE, one, canaries(0.05)) is not CHOICE]
    assert 0.04 < len(drawn) / len(IDS) < 0.06
    assert set(drawn) < {one for one in IDS if with_canary(CHOICE, one, canaries(0.1)) is not CHOICE}


@pytest.mark.parametrize("reason", [MATCHED, SESSION, TASK, MATCHED + EXPLORED])
def test_every_choice_of_its_learnware_may_be_the_canarys_and_the_reason_says_so(reason: str) -> None:
    drawn = with_canary(CHOICE._replace(reason=reason), "r", canaries(1.0))
    assert drawn == CHOICE._replace(learnware_id="x@canary", reason=reason + CANARY)
    assert next_best(drawn) == "x"


def test_choices_of_others_and_of_the_base_model_are_left_alone() -> None:
    for other in (CHOICE._replace(learnware_id="y"), CHOICE._replace(learnware_id=None, reason=LOW_CONFIDENCE)):
        assert with_canary(other, "r", canaries(1.0)) is other


def test_the_requests_that_explore_are_not_those_of_the_canary() -> None:
    both = sum(
        explored(CHOICE, one, 0.5, None) is not CHOICE and with_canary(CHOICE, one, canaries(0.5)) is not CHOICE
        for one in IDS
    )
    assert 0.2 < both / len(IDS) < 0.3  # independent draws: a quarter, where one draw for both would give a half


def test_nobody_stands_in_for_a_canary_and_its_own_adapter_is_placed() -> None:
    adapters = {"x": "x@111", "y": "y@111", "x@canary": "x@canary@222"}
    (option,) = options_of(with_canary(CHOICE, "r", canaries(1.0)), adapters)
    assert (option.learnware, option.adapter) == ("x@canary", "x@canary@222")


THEN = {
    "reason": "matched:canary",
    "learnware": "x@canary",
    "base": 0.3,
    "bound": 0.5,
    "market": 3,
    "candidates": [
        {"learnware": name, "expected": expected, "score": score} for name, score, _, expected in CANDIDATES
    ],
}


@pytest.mark.parametrize("reason", ["matched:canary", "session:canary", "task:canary", "matched:explore:canary"])
def test_the_replay_of_a_canarys_decision_is_that_of_its_learnware(reason: str) -> None:
    found = compared(THEN | {"reason": reason}, CHOICE, 3, {"x", "y"})
    assert not found["differs"]
    assert found["why"].startswith("x would answer again; x@canary had its share of the requests then.")
    assert found["then"]["learnware"] == "x@canary"
    other = compared(THEN | {"reason": reason}, CHOICE._replace(learnware_id="y"), 3, {"y"})
    assert "y would answer instead of x. x is not served any more." in other["why"]


@pytest.fixture(scope="module")
def made() -> Mapping[str, Learnware]:
    return {
        name: learnware(name, specification_of(name), [name], capability({f"d-{name}": probe(0.8)}, HARMLESS))
        for name in ("recipe", "spam")
    }


def entry(name: str, version: str, share: float | None = None) -> Entry:
    return Entry(name, int(version), version * 64, Path("nowhere"), share)


def built(builder: SnapshotBuilder, sequence: int, *entries: Entry) -> Snapshot:
    snapshot = builder.build(Catalogue(sequence, entries))
    assert snapshot is not None
    assert snapshot.selector is not None
    return snapshot


def test_a_snapshot_keeps_canaries_apart_from_candidates_until_they_end(made: Mapping[str, Learnware]) -> None:
    read: list[str] = []

    def load(one: Entry) -> Learnware:
        read.append(one.engine_name)
        return made[one.id]

    builder = SnapshotBuilder(SelectionSettings(), load)
    plain = (entry("recipe", "1"), entry("spam", "2"))
    before = built(builder, 1, *plain)
    assert before.canaries == {}
    canary = entry("spam@canary", "3", 0.05)
    running = built(builder, 2, *plain, canary)
    assert running.selector is before.selector  # nothing is read or fitted for a canary
    assert running.canaries == {"spam": Canary("spam@canary", canary.engine_name, 0.05)}
    assert running.adapters == {**before.adapters, "spam@canary": canary.engine_name}
    other = built(builder, 3, entry("recipe", "4"), plain[1], canary)
    assert (other.canaries, other.adapters["spam@canary"]) == (running.canaries, canary.engine_name)
    promoted = built(builder, 4, entry("recipe", "4"), entry("spam", "3"))
    assert promoted.canaries == {}
    assert promoted.adapters == {one.id: one.engine_name for one in (entry("recipe", "4"), entry("spam", "3"))}
    assert read[-1] == entry("spam", "3").engine_name
    again = built(builder, 5, entry("recipe", "4"), entry("spam", "3"), entry("spam@canary", "5", 0.5))
    assert again.canaries["spam"].share == 0.5
    rolled_back = built(builder, 6, entry("recipe", "4"), entry("spam", "3"))
    assert (rolled_back.canaries, rolled_back.adapters) == ({}, promoted.adapters)
    assert rolled_back.selector.choose(request("spam", 300)).learnware_id == "spam"


def ask(router: LearnwareRouter, content: bytes, request_id: str | None) -> RoutedChoice | None:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=await router.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://router", timeout=60) as client:
            headers = {} if request_id is None else {"x-request-id": request_id}
            return await client.post("/internal/route", content=content, headers=headers)

    return chosen(asyncio.run(run()))


def test_a_router_sends_the_share_to_the_canary_and_requests_by_name_to_whom_they_name(make_router: Any) -> None:
    recorder = Recorder()
    router = make_router(record=lambda _: recorder)
    name = chosen_id(router)
    canary = Entry(f"{name}@canary", 2, "c" * 64, STARTER / name, 0.5)
    catalogue = static_catalogue(STARTER)
    router._builder.build(catalogue._replace(entries=(*catalogue.entries, canary)))
    found = {one: ask(router, body("auto", QUESTION), one) for one in IDS[:12]}
    drawn = {one for one, choice in found.items() if choice is not None and choice.reason == "matched:canary"}
    assert drawn == {one for one in found if with_canary(CHOICE, one, canaries(0.5)) is not CHOICE}
    assert 0 < len(drawn) < 12
    for one, choice in found.items():
        assert choice is not None
        assert choice.learnware == (canary.id if one in drawn else name)
        assert choice.next == name if one in drawn else choice.next != name
    assert ask(router, body("auto", QUESTION), None).learnware == name  # type: ignore[union-attr]
    assert all(ask(router, body(each, QUESTION), one) is None for each in (name, canary.id) for one in drawn)
    part = next(one for one in recorder.parts if one["choice"]["reason"] == "matched:canary")
    assert part["choice"]["candidates"][0]["learnware"] == name
    replayed = asyncio.run(router.replay({"model": "auto", "choice": part["choice"], "vectors": part["vectors"]}))
    assert (replayed["differs"], replayed["choice"]["learnware"]) == (False, name)
    assert asyncio.run(router.explain(body("auto", QUESTION)))["learnware"] == name
    assert ask(router, body(f"{TASK_PREFIX}x", QUESTION), "r").learnware is None  # type: ignore[union-attr]
