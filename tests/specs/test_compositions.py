"""Requests that a learnware's rows and card imply."""

import pytest

from specs.answers import Answers
from specs.ask import split_prompt
from specs.compositions import ASKED, DECLINED, asked_and_declined
from specs.prompts import other_asks

LABELS = Answers("label", ("red", "blue"), (1.0, 1.0, 1.0))
MATERIALS = [f"Object number {number} stands in room {number * 7 % 11}." for number in range(30)]
PROMPTS = [f"Which colour has the object?\n{material}\nAnswer:" for material in MATERIALS]
EXAMPLES = ["What colour is my bicycle? It stands in the hall.", "Tell me the colour of this door. It is old."]
OWN = ["What colour is my bicycle?", "Tell me the colour of this door."]


def test_own_asks_in_other_words_are_put_to_the_rows_material() -> None:
    asked, _ = asked_and_declined(PROMPTS, EXAMPLES, LABELS)
    assert len(asked) == ASKED
    for request in asked:
        lines = request.split("\n")
        assert sum(ask in lines for ask in OWN) == 1
        assert sum(material in lines for material in MATERIALS) == 1
    assert {request.split("\n")[0] in OWN for request in asked} == {True, False}
    assert {ask for ask in OWN for request in asked if ask in request} == set(OWN)


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


def test_without_examples_only_other_asks_are_composed() -> None:
    asked, declined = asked_and_declined(PROMPTS, [], LABELS)
    assert (len(asked), len(declined)) == (0, DECLINED)
    assert not any("{ask}" in request for request in declined)


@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        (["What is two plus two?"] * 30, LABELS),
        (PROMPTS, Answers("text", (), (10.0, 20.0, 30.0))),
        (PROMPTS, None),
        ([], LABELS),
    ],
    ids=["one line", "answers in sentences", "unknown answers", "no rows"],
)
def test_where_there_is_nothing_to_compose_there_is_nothing(prompts: list[str], answers: Answers | None) -> None:
    assert asked_and_declined(prompts, EXAMPLES, answers) == ([], [])


def test_what_is_asked_in_a_composed_request_is_found_again() -> None:
    asked, _ = asked_and_declined(PROMPTS, EXAMPLES, LABELS)
    assert all(split_prompt(request).ask[0] in OWN for request in asked)
