"""A recorded choice over another market: the same, or another one with the reason."""

import asyncio
import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve")

from router.choice import BASE_BETTER, EXPLANATION, LOW_CONFIDENCE, MATCHED, UNKNOWN_TASK
from router.replay import compared
from router.selection import Candidate, Choice
from tests.router.test_decision_record import Recorder
from tests.router.test_deployment import QUESTION, STARTER, ask, body, make_router

__all__ = ["make_router"]


def record_of(make_router: Any, *turns: str) -> tuple[Any, dict[str, Any]]:
    recorder = Recorder()
    router = make_router(record=lambda _: recorder)
    ask(router, body("auto", *turns))
    (part,) = recorder.parts
    return router, {"model": "auto", "choice": part["choice"], "vectors": part.get("vectors")}


def test_over_the_same_market_the_same_is_chosen(make_router: Any) -> None:
    router, record = record_of(make_router, QUESTION)
    found = asyncio.run(router.replay(record))
    assert not found["differs"]
    assert found["choice"]["learnware"] == record["choice"]["learnware"]
    assert found["choice"]["candidates"][0]["expected"] == pytest.approx(
        found["then"]["candidates"][0]["expected"], abs=2e-3
    )
    assert "would answer again" in found["why"]
    assert "The market is the same" in found["why"]


@pytest.mark.slow
def test_a_learnware_that_is_gone_is_named(make_router: Any, tmp_path: Path) -> None:
    _, record = record_of(make_router, QUESTION)
    chosen = record["choice"]["learnware"]
    for folder in STARTER.iterdir():
        if folder.is_dir() and folder.name != chosen:
            shutil.copytree(folder, tmp_path / folder.name)
    found = asyncio.run(make_router(learnwares=tmp_path).replay(record))
    assert found["differs"]
    assert found["choice"]["learnware"] != chosen
    assert f"{chosen} is not served any more" in found["why"]


def test_what_the_conversation_decided_holds(make_router: Any) -> None:
    router, record = record_of(make_router, QUESTION, "Why?")
    assert record["choice"]["reason"] == EXPLANATION
    found = asyncio.run(router.replay(record))
    assert not found["differs"]
    assert found["choice"]["reason"] == EXPLANATION


def test_a_task_is_chosen_for_again_and_may_be_gone(make_router: Any) -> None:
    router, record = record_of(make_router, QUESTION)
    found = asyncio.run(router.replay(record | {"model": "task:" + 32 * "a", "vectors": None}))
    assert found["choice"]["reason"] == UNKNOWN_TASK
    assert "not kept any more" in found["why"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, "No vector is kept"),
        ({"encoder": "another"}, "another encoder"),
        ({"vector": "###"}, "damaged"),
        ({"vector": base64.b64encode(np.ones(3, np.float16).tobytes()).decode()}, "damaged"),
        ({"vector": base64.b64encode(np.full(4, np.nan, np.float16).tobytes()).decode()}, "damaged"),
        ({"form": {"kind": "poem"}}, "damaged"),
    ],
)
def test_what_cannot_be_replayed_says_why(make_router: Any, change: dict[str, Any], why: str) -> None:
    router, record = record_of(make_router, QUESTION)
    vectors = {**record["vectors"], **change} if change else None
    assert why in asyncio.run(router.replay(record | {"vectors": vectors}))["why_not"]


THEN = {
    "learnware": "a",
    "reason": MATCHED,
    "base": 0.5,
    "bound": 0.5,
    "candidates": [
        {"learnware": "a", "expected": 0.7, "score": 0.9},
        {"learnware": "b", "expected": 0.68, "score": 0.8},
    ],
    "market": 3,
}


def now(learnware: str | None, reason: str = MATCHED, base: float = 0.5, **expected: float) -> Choice:
    candidates = tuple(Candidate(name, 0.4, 1.0, quality) for name, quality in expected.items())
    return Choice(learnware, 0.4, 0.9, reason, candidates, base, (), 0.5)


@pytest.mark.parametrize(
    ("choice", "sequence", "why"),
    [
        (now("b", b=0.72, a=0.7), 4, "of b 0.720 is expected (then 0.680)"),
        (now("c", c=0.9, a=0.7), 5, "c was not among the best candidates then"),
        (now(None, BASE_BETTER, 0.8, a=0.7), 4, "Of the base model 0.800 is expected now (then 0.5)"),
        (now(None, LOW_CONFIDENCE, a=0.7), 4, "the best has a probability of 0.40 (then 0.90), and 0.5 is needed"),
        (now("b", b=0.68, a=0.7), 3, "as good as equal"),
    ],
)
def test_the_difference_is_told(choice: Choice, sequence: int, why: str) -> None:
    found = compared(THEN, choice, sequence, {"a", "b", "c"})
    assert found["differs"]
    assert why in found["why"]


def test_a_stand_in_is_not_a_difference_and_is_named() -> None:
    found = compared(THEN | {"learnware": "b", "reason": "matched:resident"}, now("a", a=0.7), 3, {"a", "b"})
    assert not found["differs"]
    assert "b stood in for it then" in found["why"]


@pytest.mark.parametrize("reason", ["matched:explore", "matched:explore:resident"])
def test_who_was_tried_then_is_not_a_difference_and_is_named(reason: str) -> None:
    found = compared(THEN | {"learnware": "b", "reason": reason}, now("a", a=0.7), 3, {"a", "b"})
    assert not found["differs"]
    assert "a would answer again; b was tried in its place then, to learn of it" in found["why"]


@pytest.mark.parametrize("weak", [{"base": 0.8}, {"bound": 0.95}])
def test_who_was_tried_in_place_of_the_base_model_is_told_so(weak: dict[str, float]) -> None:
    then = THEN | weak | {"learnware": "b", "reason": "matched:explore"}
    found = compared(then, now(None, BASE_BETTER, 0.8, a=0.7), 3, {"a", "b"})
    assert not found["differs"]
    assert "The base model would answer again; b was tried in its place then" in found["why"]


def test_the_base_model_then_and_a_learnware_now_says_what_moved() -> None:
    found = compared(THEN | {"learnware": None, "reason": BASE_BETTER}, now("a", a=0.9), 4, {"a"})
    assert "a would answer instead of the base model" in found["why"]
    assert "0.900 is expected of it (then 0.700)" in found["why"]
