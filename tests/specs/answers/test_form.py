"""The form of answer that an ask names, and which learnwares can give it."""

import time

import pytest

from specs.answers.description import Answers
from specs.answers.form import AnswerForm, answer_form, asked_form, can_give

WORDS = (1.0, 1.0, 1.0)
SENTIMENT = Answers("label", ("positive", "neutral", "negative"), WORDS)
VERDICT = Answers("label", ("yes", "no", "maybe"), WORDS)
LETTER = Answers("letter", (), WORDS)
NUMBER = Answers("number", (), WORDS)
TEXT = Answers("text", (), (10.0, 20.0, 30.0))


def labels(*names: str) -> AnswerForm:
    return AnswerForm("label", frozenset(names))


@pytest.mark.parametrize(
    ("ask", "form"),
    [
        ("Answer with one of: up, down, flat.", labels("up", "down", "flat")),
        ("Reply with one of the following labels: Sports; 'Politics' or Art", labels("sports", "politics", "art")),
        ("Is that so? Answer yes or no.", labels("yes", "no", "true", "false")),
        ("Answer with the letter only.", AnswerForm("letter")),
        ("Give just the correct letter", AnswerForm("letter")),
        ("请直接给出正确答案的选项字母。", AnswerForm("letter")),
        ("End with the final number.", AnswerForm("number")),
        ("Return a number, nothing else", AnswerForm("number")),
    ],
)
def test_a_form_is_read(ask: str, form: AnswerForm) -> None:
    assert answer_form(("How much is it?", ask)) == form


@pytest.mark.parametrize(
    "ask",
    [
        "Write a kind letter to the applicant.",
        "Give a letter of recommendation.",
        "State the number of patients in the trial.",
        "What is the number of the page?",
        "One of the drugs is dangerous: which?",
        "What are the side effects of metformin?",
        "",
    ],
)
def test_where_none_is_named_there_is_none(ask: str) -> None:
    assert answer_form((ask,)) is None


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Which one floats?\nA. iron\nB. cork\nC. lead", AnswerForm("letter", by_options=True)),
        ("Why does one float?\nA. iron\nB. cork\nC. lead", AnswerForm("letter")),
        ("Explain which one floats.\nA. iron\nB. cork\nC. lead", AnswerForm("letter")),
        ("Which one floats?", AnswerForm("text")),
        ("Which one floats? Answer with one of: iron, cork.\nA. iron\nB. cork\nC. lead", labels("iron", "cork")),
    ],
)
def test_options_ask_for_a_letter_where_no_form_is_named(text: str, form: AnswerForm) -> None:
    assert asked_form(text) == form


@pytest.mark.parametrize(
    ("form", "fitting"),
    [
        (labels("positive", "negative", "neutral"), [SENTIMENT]),
        (labels("pos", "neg"), [SENTIMENT]),
        (labels("up", "down"), []),
        (labels("yes", "no", "true", "false"), [VERDICT]),
        (AnswerForm("letter"), [LETTER]),
        (AnswerForm("letter", by_options=True), [LETTER]),
        (AnswerForm("number"), [NUMBER, TEXT]),
        (AnswerForm("text"), [SENTIMENT, VERDICT, NUMBER, TEXT]),
    ],
)
def test_only_who_has_such_answers_can_give_them(form: AnswerForm, fitting: list[Answers]) -> None:
    assert [one for one in (SENTIMENT, VERDICT, LETTER, NUMBER, TEXT) if can_give(one, form)] == fitting
    assert can_give(None, form)


def test_a_list_of_labels_is_compared_with_those_of_a_whole_market_within_a_request() -> None:
    """Compared pair by pair this took 200 ms. Processor time, best of five: others may use the machine."""
    market = [Answers("label", tuple(f"label {i} {j}" for j in range(6)), WORDS) for i in range(10_000)]
    form = labels("up", "down", "flat", "none")
    took = []
    for _ in range(5):
        started = time.process_time()
        assert not any(can_give(one, form) for one in market)
        took.append(time.process_time() - started)
    assert min(took) < 0.1


def test_spans_may_be_anything() -> None:
    form = labels("up", "down")
    assert can_give(Answers("span", (), WORDS), form)


def test_labels_may_be_letters() -> None:
    assert can_give(Answers("label", ("A", "B"), WORDS), AnswerForm("letter"))
    assert can_give(Answers("label", ("A", "B"), WORDS), AnswerForm("text"))
