"""Requests that a learnware's rows and card imply."""

import pytest

from specs.answers.description import Answers
from specs.compositions import (
    ASKED,
    DECLINED,
    DECLINED_UNASKED,
    GENERIC_SHARE,
    ON_ONE_LINE,
    UNASKED,
    asked_and_declined,
    generic_asks,
    own_content,
)
from specs.encoding.ask import split_prompt
from specs.prompts import LABELS as LABELS_HERE, other_asks, own_asks

LABELS = Answers("label", ("red", "blue"), (1.0, 1.0, 1.0))
MATERIALS = [f"Object number {number} stands in room {number * 7 % 11}." for number in range(30)]
PROMPTS = [f"Which colour has the object?\n{material}\nAnswer:" for material in MATERIALS]
EXAMPLES = ["What colour is my bicycle? It stands in the hall.", "Tell me the colour of this door. It is old."]
OWN = ["What colour is my bicycle?", "Tell me the colour of this door."]


def test_own_asks_in_other_words_are_put_to_the_rows_material() -> None:
    asked, _ = asked_and_declined(PROMPTS, EXAMPLES, LABELS)
    assert len(asked) == ASKED
    every = [*OWN, *generic_asks(LABELS)]
    for request in asked:
        lines = request.split("\n")
        assert any(request in (f"{ask}\n{material}", f"{material}\n{ask}") for ask in every for material in MATERIALS)
        assert sum(material in lines for material in MATERIALS) == 1
    own = [request for request in asked if any(ask in request.split("\n") for ask in OWN)]
    assert len(own) == round(ASKED * (1 - GENERIC_SHARE))
    assert {request.split("\n")[0] in OWN for request in own} == {True, False}
    assert {ask for ask in OWN for request in own if ask in request} == set(OWN)


def test_generic_asks_are_those_for_that_kind_of_answer() -> None:
    assert any("red or blue" in ask for ask in generic_asks(LABELS))
    verdict = Answers("label", ("yes", "no", "maybe"), (1.0, 1.0, 1.0))
    assert any("yes, no or maybe" in ask for ask in generic_asks(verdict))
    assert not set(own_asks("label")) & set(generic_asks(verdict))
    for kind in ("letter", "number", "span", "text"):
        asks = generic_asks(Answers(kind, (), (1.0, 1.0, 1.0)))
        assert len(asks) >= 30
        assert set(asks) <= set(own_asks(kind))


def test_a_long_list_of_labels_is_not_said() -> None:
    many = Answers("label", tuple(f"class {number}" for number in range(20)), (2.0, 2.0, 2.0))
    asks = generic_asks(many)
    assert len(asks) >= 30
    assert not [ask for ask in asks if "class 3" in ask or LABELS_HERE in ask]


def test_a_learnware_that_answers_in_sentences_is_asked_for_them_and_declines_nothing() -> None:
    text = Answers("text", (), (10.0, 20.0, 30.0))
    asked, declined = asked_and_declined(PROMPTS, EXAMPLES, text)
    assert declined == []
    assert len(asked) == len(generic_asks(text))
    assert all(sum(prompt in request for prompt in PROMPTS) == 1 for request in asked)


LETTER = Answers("letter", (), (1.0, 1.0, 1.0))
QUESTIONS = [f"Which number is {number}?\nA. {number}\nB. {number + 1}\nC. {number + 2}" for number in range(30)]
EXAM = [f"An exam question.\n{question}\nAnswer with the letter only.\nAnswer:" for question in QUESTIONS]


def test_questions_with_lettered_options_are_also_put_as_they_are_to_whoever_answers_letters() -> None:
    asked, _ = asked_and_declined(EXAM, EXAMPLES, LETTER)
    assert len(asked) == ASKED + UNASKED
    alone = [request for request in asked if request in QUESTIONS]
    on_one_line = [request for request in asked if request in [" ".join(one.split("\n")) for one in QUESTIONS]]
    assert len(on_one_line) == UNASKED // ON_ONE_LINE
    assert len(alone) == UNASKED - len(on_one_line)


def test_other_asks_on_such_questions_are_declined_with_and_without_what_the_provider_put_around_them() -> None:
    _, declined = asked_and_declined(EXAM, EXAMPLES, LETTER)
    around = [request for request in declined if "Answer with the letter only." in request]
    assert (len(around), len(declined) - len(around)) == (DECLINED, DECLINED_UNASKED)
    assert not set(declined) & set(QUESTIONS)


def test_own_content_is_what_most_rows_do_not_share() -> None:
    assert own_content(EXAM) == QUESTIONS
    assert own_content(QUESTIONS) == QUESTIONS
    assert own_content(["Same.", "Same.", "Same."]) == ["Same."] * 3
    two_wordings = [*EXAM[:20], *(f"Quiz!\n{question}" for question in QUESTIONS[20:])]
    assert own_content(two_wordings)[:20] == QUESTIONS[:20]


def test_other_asks_are_put_to_the_rows_material() -> None:
    _, declined = asked_and_declined(PROMPTS, EXAMPLES, LABELS)
    assert len(declined) == DECLINED
    assert all(sum(material in request for material in MATERIALS) == 1 for request in declined)
    known = other_asks()
    of_the_project = [any(ask in request for ask in known) for request in declined]
    assert 0.5 * DECLINED < sum(of_the_project) < DECLINED
    assert not any(request in PROMPTS for request in declined)
    own = [request for request in declined if any(request.startswith(f"{ask}\n") for ask in OWN)]
    assert own == []  # the own ask alone is never declined


@pytest.mark.parametrize("examples", [[], EXAMPLES])
def test_the_same_input_gives_the_same_output(examples: list[str]) -> None:
    assert asked_and_declined(PROMPTS, examples, LABELS) == asked_and_declined(list(PROMPTS), list(examples), LABELS)


def test_without_examples_the_asks_are_the_projects_own() -> None:
    asked, declined = asked_and_declined(PROMPTS, [], LABELS)
    assert 0 < len(asked) <= round(ASKED * GENERIC_SHARE)
    assert len(declined) == DECLINED
    assert not any("{ask}" in request for request in declined)


@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        (["What is two plus two?"] * 30, LABELS),
        (PROMPTS, None),
        ([], LABELS),
    ],
    ids=["one line", "unknown answers", "no rows"],
)
def test_where_there_is_nothing_to_compose_there_is_nothing(prompts: list[str], answers: Answers | None) -> None:
    assert asked_and_declined(prompts, EXAMPLES, answers) == ([], [])


def test_what_is_asked_in_a_composed_request_is_found_again() -> None:
    asked, _ = asked_and_declined(PROMPTS, EXAMPLES, LABELS)
    own = [request for request in asked if any(ask in request for ask in OWN)]
    assert all(split_prompt(request).ask[0] in OWN for request in own)
