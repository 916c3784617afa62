"""The router's half of a record: what the choice was made of, at no further embedding."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve")

from router.choice import EXPLANATION, MATCHED, MIXED_PROMPTS, SESSION
from router.decision_record import form_as_json, form_from_json
from router.deployment import LearnwareRouter
from specs.answers.form import AnswerForm, asked_form
from specs.encoding.encoder import load_prompt_encoder
from tests.router.test_deployment import QUESTION, ask, body, chosen, make_router

__all__ = ["make_router"]

WORD_PROBLEM = "Jack had 8 pens, lost 3 and bought 12. How many has he now?"


class Recorder:
    """Keeps what it is given."""

    def __init__(self, *, vectors: bool = True, prompts: bool = False) -> None:
        self.vectors, self.prompts = vectors, prompts
        self.parts: list[Mapping[str, Any]] = []
        self.started, self.closed = 0, False

    def start(self) -> None:
        self.started += 1

    def add(self, part: Mapping[str, Any]) -> None:
        self.parts.append(part)

    async def close(self) -> None:
        self.closed = True


def recorded(make_router: Any, *turns: str, **kept: bool) -> dict[str, Any]:
    recorder = Recorder(**kept)
    router = make_router(record=lambda _: recorder)
    header = chosen(ask(router, body("auto", *turns))[0])
    assert header is not None
    (part,) = recorder.parts
    assert part["decision"] == header.id
    assert (part["choice"]["learnware"], part["choice"]["reason"]) == (header.learnware, header.reason)
    assert recorder.started == 1
    return dict(part)


def test_a_choice_is_recorded_with_what_was_compared(make_router: Any) -> None:
    part = recorded(make_router, QUESTION)
    choice = part["choice"]
    assert choice["reason"] == MATCHED
    assert choice["candidates"][0]["learnware"] == choice["learnware"]
    assert all(0 <= one["score"] <= 1 for one in choice["candidates"])
    assert choice["candidates"][0]["expected"] > choice["base"] > 0
    assert 0.5 < choice["confidence"] <= 1
    assert choice["bound"] == 0.5
    assert sum(one["probability"] for one in choice["tasks"]) <= 1.00001
    assert choice["tasks"][0]["probability"] > 0.5
    assert (choice["prompts"], choice["turns"], choice["market"]) == (1, 1, 0)
    assert "ask" not in choice


def test_the_vector_is_that_of_the_text_in_half_precision(make_router: Any) -> None:
    encoder = load_prompt_encoder()
    vectors = recorded(make_router, QUESTION)["vectors"]
    kept = np.frombuffer(base64.b64decode(vectors["vector"]), np.float16)
    np.testing.assert_allclose(kept, encoder.encode([QUESTION])[0], atol=1e-3)
    assert vectors["encoder"] == encoder.fingerprint
    assert form_from_json(vectors["form"]) == asked_form(QUESTION) is not None


def test_a_later_turn_that_goes_on_keeps_the_vector_of_the_turn_that_decided(make_router: Any) -> None:
    part = recorded(make_router, WORD_PROBLEM, "ok thanks, go on")
    assert part["choice"]["reason"] in (SESSION, EXPLANATION)
    kept = np.frombuffer(base64.b64decode(part["vectors"]["vector"]), np.float16)
    np.testing.assert_allclose(kept, load_prompt_encoder().encode([WORD_PROBLEM])[0], atol=1e-3)
    assert part["choice"]["turns"] == 2


def test_nothing_that_tells_the_topic_is_kept_where_that_is_off(make_router: Any) -> None:
    assert "vectors" not in recorded(make_router, QUESTION, vectors=False)


def test_the_ask_is_kept_with_prompts_alone(make_router: Any) -> None:
    choice = recorded(make_router, QUESTION, prompts=True)["choice"]
    assert choice["ask"]
    assert choice["ask"][0].startswith("Is the sentiment of this financial news")


def test_several_prompts_have_no_vector(make_router: Any) -> None:
    import json

    recorder = Recorder()
    router = make_router(record=lambda _: recorder)
    same = json.dumps({"model": "auto", "prompt": [QUESTION, QUESTION]}).encode()
    mixed = json.dumps({"model": "auto", "prompt": [QUESTION, WORD_PROBLEM]}).encode()
    ask(router, same, mixed)
    assert [part["choice"]["prompts"] for part in recorder.parts] == [2, 2]
    assert {part["choice"]["reason"] for part in recorder.parts} == {MATCHED, MIXED_PROMPTS}
    assert not any("vectors" in part for part in recorder.parts)


def test_a_choice_costs_no_further_embedding(make_router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_prompt_encoder()
    counted: list[int] = []
    encode = type(encoder).encode

    def count(self: Any, texts: Any) -> Any:
        counted.append(len(texts))
        return encode(self, texts)

    def embeddings(**options: Any) -> int:
        router = make_router(**options)
        counted.clear()
        ask(router, body("auto", QUESTION, WORD_PROBLEM))
        return sum(counted)

    monkeypatch.setattr(type(encoder), "encode", count)
    assert embeddings(record=lambda _: Recorder(prompts=True)) == embeddings() > 0


def test_a_named_request_has_no_choice_and_a_broken_recorder_costs_none(make_router: Any) -> None:
    class Broken(Recorder):
        def add(self, part: Mapping[str, Any]) -> None:
            raise RuntimeError("full")

    recorder = Recorder()
    ask(make_router(record=lambda _: recorder), body("finance-tfns", QUESTION))
    assert not recorder.parts
    header = chosen(ask(make_router(record=lambda _: Broken()), body("auto", QUESTION))[0])
    assert header is not None
    assert header.learnware is not None


@pytest.mark.parametrize(
    "form", [None, AnswerForm("letter", by_options=True), AnswerForm("label", frozenset({"up", "down"}))]
)
def test_a_form_comes_back_from_json(form: AnswerForm | None) -> None:
    assert form_from_json(form_as_json(form)) == form


@pytest.mark.parametrize("broken", [3, {}, {"kind": "poem", "labels": []}, {"kind": "label", "labels": None}])
def test_a_damaged_form_is_refused(broken: Any) -> None:
    with pytest.raises(ValueError, match="answer"):
        form_from_json(broken)


async def test_a_router_that_is_stopped_closes_its_recorder(make_router: Any) -> None:
    recorder = Recorder()
    await LearnwareRouter.__del__(make_router(record=lambda _: recorder))
    assert recorder.closed
    await LearnwareRouter.__del__(make_router())  # it has none
