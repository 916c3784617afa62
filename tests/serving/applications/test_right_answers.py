"""Right answers become scores beside their feedback, in the store and for the learner, as far as engines have time."""

import asyncio
import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.access.keyring import Keyring
from serving.applications import decisions, right_answers as module
from serving.applications.access import Access
from serving.applications.decisions import DecisionsServer
from serving.applications.right_answers import RightAnswers
from serving.config_insight import DecisionSettings
from serving.decisions.store import DecisionStore
from serving.feedback.pieces import read_pieces

VECTOR = base64.b64encode(np.ones(4, "<f2").tobytes()).decode()


def store(path: Path, count: int = 1, prompts: bool = True) -> DecisionStore:
    made = DecisionStore(path / "d.sqlite", 100, 1e6, prompts=prompts)
    for number in range(count):
        candidates = [{"learnware": name, "expected": 0.5, "score": 0.5} for name in ("a", "b")]
        choice = {"learnware": "a", "candidates": candidates, "tasks": []}
        vectors = {"encoder": "e", "vector": VECTOR, "form": None}
        lost = made.add(
            [
                {"decision": f"d{number}", "choice": choice, "vectors": vectors},
                {
                    "id": f"r{number}",
                    "decision": f"d{number}",
                    "tenant": "t",
                    "time": time.time(),
                    "learnware": "a",
                    "version": "a@1",
                    "reason": "matched",
                    "status": 200,
                    "path": "/v1/chat/completions",
                    "text": {"prompt": "user: Who?", "answer": "x"},
                },
            ]
        )
        assert not lost
    return made


class Engines:
    """Engines that know some learnwares, and have time while `time` says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str]] = []
        self.time = 1 << 30
        self.gone: set[str | None] = set()

    async def score(self, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if self.time <= 0:
            return None
        self.time -= 1
        name = asked["model"]
        self.asked.append((name, asked["answers"][0]))
        if name in self.gone:
            return {"why_not": "it is gone"}
        value = {None: -2.0, "a": -1.0, "b": -3.0}[name]
        version = None if name is None else f"{name}@1"
        return {"version": version, "answers": [{"log_prob": value, "tokens": 1, "greedy": name == "a"}]}


def pieces(made: DecisionStore) -> list[dict[str, float]]:
    return [
        {name: round(gain.value, 4) for name, gain in piece.gains.items()}
        for piece in read_pieces(made.feedback_rows(), "e")
    ]


async def test_a_right_answer_is_scored_under_the_base_model_and_the_candidates_once(tmp_path: Path) -> None:
    made, engines = store(tmp_path, 2), Engines()
    one = RightAnswers(made, engines.score)
    await one.round()
    made.feedback("t", "r0", {"answer": "Ada"}, "t")
    made.feedback("t", "r1", {"label": "right"}, "t")
    assert pieces(made) == [{}]  # the label's alone
    for _ in range(2):
        await one.round()
    assert engines.asked == [(None, "Ada"), ("a", "Ada"), ("b", "Ada")]
    assert pieces(made) == [{"a": 0.4325, "b": -0.2855}, {}]
    kept = made.get("t", "r0")
    assert kept is not None
    assert kept["feedback"][0]["measured"]["a"] == {
        "version": "a@1",
        "choices": 0,
        "right": True,
        "gold": -1.0,
        "among": 0.36787944117144233,
    }
    await RightAnswers(made, engines.score).round()  # the next start finds it scored
    assert len(engines.asked) == 3


async def test_what_there_is_no_time_for_is_asked_again_and_not_what_was_scored(tmp_path: Path) -> None:
    made, engines = store(tmp_path, 2), Engines()
    one = RightAnswers(made, engines.score)
    for number in range(2):
        made.feedback("t", f"r{number}", {"answer": f"Ada {number}"}, "t")
    for spare in (0, 2, 1, 3):
        engines.time = spare
        await one.round()
    assert engines.asked == [(name, f"Ada {number}") for number in range(2) for name in (None, "a", "b")]
    assert len(pieces(made)) == 2


async def test_an_error_loses_no_answer_that_waits(tmp_path: Path, monkeypatch: Any) -> None:
    made, engines = store(tmp_path, 2), Engines()
    one = RightAnswers(made, engines.score)
    for number in range(2):
        made.feedback("t", f"r{number}", {"answer": f"Ada {number}"}, "t")
    with monkeypatch.context() as patch:
        patch.setattr(made, "note_measured", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await one.round()
    await one.round()
    assert [len(each) for each in pieces(made)] == [2, 2]


async def test_after_so_many_tries_an_answer_is_given_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "TRIES", 2)
    made, engines = store(tmp_path), Engines()
    one = RightAnswers(made, engines.score)
    made.feedback("t", "r0", {"answer": "Ada"}, "t")
    for spare in (0, 0, 3):
        engines.time = spare
        await one.round()
    assert engines.asked == []


async def test_learnwares_that_are_gone_are_left_out_and_without_the_base_model_nothing_is_said(tmp_path: Path) -> None:
    made, engines = store(tmp_path, 2), Engines()
    one = RightAnswers(made, engines.score)
    engines.gone = {"a"}
    made.feedback("t", "r0", {"answer": "Ada"}, "t")
    await one.round()
    assert pieces(made) == [{"b": -0.2855}]
    engines.gone = {None}
    made.feedback("t", "r1", {"answer": "Ada"}, "t")
    await one.round()
    assert len(pieces(made)) == 1


async def test_without_kept_prompts_nothing_is_asked(tmp_path: Path) -> None:
    made, engines = store(tmp_path, prompts=False), Engines()
    made.feedback("t", "r0", {"answer": "Ada"}, "t")
    await RightAnswers(made, engines.score).round()
    assert engines.asked == []


def test_a_piece_that_is_gone_cannot_be_told_of(tmp_path: Path) -> None:
    made = store(tmp_path)
    assert not made.note_measured(7, {})


class Pupil:
    def learn(self, rows: Any) -> None:
        list(rows)


@pytest.mark.parametrize(("prompts", "teacher"), [(True, Pupil()), (False, Pupil()), (True, None)])
async def test_the_application_does_it_where_feedback_teaches_and_prompts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: bool, teacher: Any
) -> None:
    engines = Engines()
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    monkeypatch.setattr(decisions, "ask_an_engine", engines.score)
    made = store(tmp_path)
    made.feedback("t", "r0", {"answer": "Ada"}, "t")
    made.close()
    settings = DecisionSettings(prompts=prompts)
    server = DecisionsServer(settings, tmp_path / "d.sqlite", Access(Keyring()), False, None, teacher)
    await server.__serve_build_asgi_app__()
    for _ in range(100):
        if engines.asked[2:]:
            break
        await asyncio.sleep(0.01)
    wanted = prompts and teacher is not None
    assert engines.asked == ([(None, "Ada"), ("a", "Ada"), ("b", "Ada")] if wanted else [])
    for task in (getattr(server, "_right_answers", None), getattr(server, "_lessons", None)):
        if task is not None:
            task.cancel()
    server.__del__()
