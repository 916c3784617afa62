"""A right answer that came as feedback: what is scored, and that its scores say what a benchmark's row says."""

import math
from typing import Any

import pytest

from serving.feedback.pieces import gains_of
from serving.feedback.right_answers import MOST_CANDIDATES, MOST_TOKENS, measured, messages_of, named_choices, question
from serving.training.scoring import RowScore

KEPT = 1000
LETTERS = "Which is a bird?\nA. cow\nB. wren\nC. oak\nAnswer with the letter only."
LABELS = (
    "Is the tone of this Positive, neutral or negative? Answer with one of: Positive, neutral, negative.\nIt rains."
)


def record(prompt: str | None = "user: Who?", **changes: Any) -> dict[str, Any]:
    candidates = [{"learnware": name, "expected": 0.5, "score": 0.5} for name in ("a", "b")]
    text = None if prompt is None else {"prompt": prompt, "answer": "x"}
    whole = {"path": "/v1/chat/completions", "learnware": "a", "version": "a@1", "choice": {"candidates": candidates}}
    return whole | ({} if text is None else {"text": text}) | changes


def test_the_right_answer_alone_is_scored_where_no_others_are_named() -> None:
    asked = question(record(), {"answer": " Ada Lovelace "}, KEPT)
    assert asked is not None
    assert asked.learnwares == ["a", "b"]
    assert asked.asked(None) == {
        "model": None,
        "prompt": [{"role": "user", "content": "Who?"}],
        "answers": ["Ada Lovelace"],
        "end": True,
        "most_tokens": None,
    }
    assert asked.asked("b")["model"] == "b"


def test_the_answers_that_a_request_names_are_scored_as_it_spells_them_without_the_end_of_turn() -> None:
    for text, right, answers, gold in (
        (LETTERS, "b", ["A", "B", "C"], 1),
        (LABELS, "NEGATIVE", ["Positive", "neutral", "negative"], 2),
        ("Is it so? Answer yes or no.", "no", ["yes", "no"], 1),
    ):
        asked = question(record(f"user: {text}"), {"answer": right}, KEPT)
        assert asked is not None
        assert (asked.answers, asked.gold, asked.asked(None)["end"]) == (answers, gold, False)


def test_a_right_answer_that_is_not_among_the_named_ones_is_scored_alone() -> None:
    assert named_choices(LETTERS, "wren") == ([], 0)
    assert named_choices(LABELS, "mixed") == ([], 0)
    assert named_choices("Who?", "B") == ([], 0)
    asked = question(record(f"user: {LABELS}"), {"answer": "mixed"}, KEPT)
    assert asked is not None
    assert (asked.answers, asked.asked(None)["end"]) == (["mixed"], True)


def test_of_sentences_the_beginning_is_scored_without_the_end_of_turn() -> None:
    asked = question(record(), {"answer": "It is a long way that leads from here to there."}, KEPT)
    assert asked is not None
    assert (asked.asked(None)["end"], asked.asked(None)["most_tokens"]) == (False, MOST_TOKENS)


def test_messages_are_told_apart_by_their_roles() -> None:
    assert messages_of("Hello\nthere") == [{"role": "user", "content": "Hello\nthere"}]
    assert messages_of("Be brief.\nuser: One\ntwo\nassistant: Three\nuser: Four: x") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One\ntwo"},
        {"role": "assistant", "content": "Three"},
        {"role": "user", "content": "Four: x"},
    ]
    completion = question(record("user: x", path="/v1/completions"), {"answer": "y"}, KEPT)
    assert completion is not None
    assert completion.prompt == "user: x"


def test_the_last_thing_that_the_user_says_names_the_choices() -> None:
    asked = question(
        record(f"user: {LETTERS}\nassistant: B\nuser: Is it so? Answer yes or no."), {"answer": "yes"}, KEPT
    )
    assert asked is not None
    assert asked.answers == ["yes", "no"]


def test_the_one_that_answered_is_scored_though_it_is_no_likely_candidate_and_the_base_model_in_any_case() -> None:
    many = {"candidates": [{"learnware": f"c{number}"} for number in range(20)]}
    asked = question(record(choice=many, learnware="a"), {"answer": "y"}, KEPT)
    assert asked is not None
    assert asked.learnwares == [*(f"c{number}" for number in range(MOST_CANDIDATES)), "a"]
    base = question(record(choice=many, learnware="base-8b", version=None), {"answer": "y"}, KEPT)
    assert base is not None
    assert base.learnwares == [f"c{number}" for number in range(MOST_CANDIDATES)]


@pytest.mark.parametrize(
    ("one", "piece"),
    [
        (record(), {"score": 1.0}),
        (record(), {"answer": " "}),
        (record(), {"answer": 7}),
        (record(), {"answer": "x", "measured": {}}),
        (record(None), {"answer": "x"}),
        (record(text={"prompt": None}), {"answer": "x"}),
        (record("x" * KEPT), {"answer": "x"}),
        (record(choice=None), {"answer": "x"}),
        (record(choice={"candidates": []}, version=None), {"answer": "x"}),
    ],
)
def test_what_cannot_be_scored_is_not(one: dict[str, Any], piece: dict[str, Any]) -> None:
    assert question(one, piece, KEPT) is None


def scored(asked: Any, *answers: tuple[float, int, bool], version: str | None = None) -> dict[str, Any]:
    of_answers = [dict(zip(("log_prob", "tokens", "greedy"), one, strict=True)) for one in answers]
    return {"version": version, "answers": of_answers}


@pytest.mark.parametrize("gold", [0, 1, 2])
def test_scores_of_named_answers_say_what_a_row_of_a_benchmark_says(gold: int) -> None:
    asked = question(record(f"user: {LETTERS}"), {"answer": "ABC"[gold]}, KEPT)
    sums = (-1.0, -0.5, -3.0)
    found = measured(asked, {None: scored(asked, *((value, 1, False) for value in sums))})["base"]  # type: ignore[arg-type]
    row = RowScore(sums, gold, greedy=False)
    assert found == {
        "version": "",
        "choices": 3,
        "right": row.right,
        "gold": row.gold_log_likelihood,
        "among": pytest.approx(row.gold_probability),
    }


@pytest.mark.parametrize(("answer", "tokens"), [("Ada", 0), ("It is a long way that leads from here to there.", 5)])
def test_scores_of_one_answer_say_what_a_row_of_a_benchmark_says(answer: str, tokens: int) -> None:
    asked = question(record(), {"answer": answer}, KEPT)
    found = measured(asked, {"a": scored(asked, (-2.0, tokens or 3, True), version="a@1")})["a"]  # type: ignore[arg-type]
    row = RowScore((-2.0,), 0, greedy=True, tokens=tokens)
    assert found == {
        "version": "a@1",
        "choices": 0,
        "right": row.right,
        "gold": row.gold_log_likelihood,
        "among": pytest.approx(row.gold_probability),
    }


def test_the_learner_reads_it() -> None:
    asked = question(record(), {"answer": "Ada"}, KEPT)
    assert asked is not None
    scores = {None: scored(asked, (-2.0, 1, False)), "a": scored(asked, (-1.0, 1, True), version="a@1")}
    ((name, gain),) = gains_of(measured(asked, scores)).items()  # type: ignore[arg-type]
    assert (name, gain.version, gain.at_least_base) == ("a", "a@1", True)
    assert gain.value == pytest.approx(math.exp(-1) - math.exp(-2) + 0.2 * 1.0)
