"""A learnware's specification is made from rows, or from examples alone."""

import pytest

from specs.errors import InvalidSpecification
from specs.row_forms import FormedRow, Message
from specs.specification_from_rows import answers_of, specification_from_rows

ROWS = [
    FormedRow(
        f"Is this headline good news?\nProfit number {number} {('rose', 'fell')[number % 2]}.",
        ("yes", "no")[number % 2],
    )
    for number in range(12)
]


@pytest.mark.slow
def test_rows_and_examples_are_its_views() -> None:
    made = specification_from_rows(ROWS, ["good or bad news: sales double"], 7)
    assert [(view.name, view.rows) for view in made.views] == [("whole", 12), ("examples", 1), ("asked", 120)]
    assert max(len(view.points) for view in made.views) == 7
    assert made.declined is not None
    assert made.answers is not None
    assert (made.answers.kind, made.answers.labels) == ("label", ("yes", "no"))


def test_examples_alone_are_enough_and_say_nothing_of_answers() -> None:
    made = specification_from_rows([], ["good or bad news: sales double", "Is it good that they fired him?"])
    assert [(view.name, view.rows, len(view.points)) for view in made.views] == [("examples", 2, 2)]
    assert (made.answers, made.declined) == (None, None)
    with pytest.raises(InvalidSpecification, match="needs at least one text"):
        specification_from_rows([])


@pytest.mark.slow
def test_a_chats_rows_make_what_its_plain_rows_make() -> None:
    persona = Message("system", "You are a helpful assistant.")
    plain, chats = (
        specification_from_rows(ROWS),
        specification_from_rows([row._replace(before=(persona,)) for row in ROWS]),
    )
    assert (plain.whole_set.points == chats.whole_set.points).all()


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["up", "down"] * 5, "label"),
        (["up", "down"] * 4 + ["up"], "span"),  # fewer than five rows a label
        ([f"name {number}" for number in range(30)], "span"),
        (["up"] * 20, "span"),
        (["3", "4"] * 10, "number"),
        (["a sentence with quite a lot of words in it", "and another one that has just as many words"] * 10, "text"),
    ],
)
def test_few_answers_that_come_again_and_again_are_labels(answers: list[str], kind: str) -> None:
    described = answers_of([FormedRow("a", answer) for answer in answers])
    assert described is not None
    assert described.kind == kind
    assert answers_of([FormedRow("a", answer) for answer in [*answers, ""]]) is None
