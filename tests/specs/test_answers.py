"""What the answers of a task are."""

import pytest

from specs.answers import AnswerKind, answer_kind

SENTENCE = "Cash received for fees during the current period, without what licences bring in."


@pytest.mark.parametrize(
    ("answers", "choices", "kind"),
    [
        (["yes", "no", "no"], [("yes", "no")] * 3, "label"),
        (["a long label of many words that stands in the prompt as it is"] * 2, [("x", "y")] * 2, "letter"),
        (["B", "A"], [("first text", "second text")] * 2, "letter"),
        (["A", "B"], [("A", "B")] * 2, "label"),
        (["A", "C", "D"], (), "letter"),
        (["12", "-3.5", "$1,200", "4 %", "1/2", "1e6"], (), "number"),
        (["81,731 thousand", "Paris", "12"], (), "span"),
        (["the board of directors", "1999"], (), "span"),
        ([SENTENCE, SENTENCE + " And more."], (), "text"),
        ([SENTENCE, SENTENCE, "58"], (), "text"),
        ([SENTENCE, "58", "59"], (), "span"),
        (["这是一个用来解释一项财务报表项目含义的完整句子。"], (), "text"),
        (["北京"], (), "span"),
    ],
)
def test_the_kind_is_that_of_most_answers(answers: list[str], choices: list[tuple[str, ...]], kind: AnswerKind) -> None:
    assert answer_kind(answers, choices) == kind
    assert answer_kind(answers[::-1], choices[::-1]) == kind


def test_a_few_rows_of_another_form_change_nothing() -> None:
    assert answer_kind(["7"] * 95 + ["seven or so"] * 5) == "number"
    assert answer_kind([SENTENCE] * 60 + ["no"] * 40) == "text"
    assert answer_kind(["a long extracted span of " + "words " * 20] * 10 + ["short one"] * 90) == "span"


def test_rows_partly_without_choices_are_no_labels() -> None:
    assert answer_kind([SENTENCE, SENTENCE], [("yes", "no"), ()]) == "text"


def test_no_answers_have_no_kind() -> None:
    with pytest.raises(ValueError, match="no answers"):
        answer_kind([])
