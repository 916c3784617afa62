"""What the answers of a task are."""

import json
from typing import Any

import pytest

from specs.answers.description import (
    LABEL_CHARS,
    MOST_LABELS,
    AnswerKind,
    Answers,
    answer_kind,
    answers_from,
    answers_to_dict,
    describe_answers,
)
from specs.errors import InvalidSpecification

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


def test_labels_come_commonest_first_and_other_answers_have_none() -> None:
    offered = [("yes", "no", "maybe")] * 6
    made = describe_answers(["no", "yes", "no", "maybe", "no", "yes"], offered)
    assert made == Answers("label", ("no", "yes", "maybe"), (1, 1, 1))
    assert str(made) == "label (no, yes, maybe), 1 to 1 words, 1 in the middle"
    assert describe_answers(["B", "A"], [("first", "second")] * 2).labels == ()
    with pytest.raises(ValueError, match="no answers"):
        describe_answers([])


def test_lengths_are_deciles_and_the_middle() -> None:
    made = describe_answers([" ".join(["word"] * count) for count in range(1, 12)])
    assert made.words == (2, 6, 10)


@pytest.mark.parametrize(
    ("answers", "choices", "in_sentences"),
    [
        ([SENTENCE], (), True),
        (["yes"], [("yes", "no")], False),
        (["12"], (), False),
        (["A"], (), False),
        (["the board"], (), False),
    ],
)
def test_only_free_text_is_said_in_sentences(
    answers: list[str], choices: list[tuple[str, ...]], in_sentences: bool
) -> None:
    assert describe_answers(answers, choices).in_sentences == in_sentences


def test_many_or_long_labels_are_bounded_and_still_read() -> None:
    labels = [f"{number:03} " + "x" * 300 for number in range(200)]
    made = describe_answers(labels, [tuple(labels)] * 200)
    assert len(made.labels) == MOST_LABELS
    assert {len(label) for label in made.labels} == {LABEL_CHARS}
    assert answers_from(json.loads(json.dumps(answers_to_dict(made)))) == made


GOOD: dict[str, Any] = {"kind": "label", "labels": ["yes", "no"], "words": [1.0, 1.0, 2.0]}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (None, "must be an object with kind, labels and words"),
        ([], "must be an object"),
        ({"kind": "label"}, "must be an object"),
        (GOOD | {"more": 1}, "must be an object"),
        (GOOD | {"kind": "essay"}, "answers.kind is 'essay'; there are label, letter, number, span, text"),
        (GOOD | {"kind": ["label"]}, "answers.kind is"),
        (GOOD | {"labels": "yes"}, "answers.labels must be a list"),
        (GOOD | {"labels": [""]}, "answers.labels must be"),
        (GOOD | {"labels": [1]}, "answers.labels must be"),
        (GOOD | {"labels": ["x" * (LABEL_CHARS + 1)]}, "answers.labels must be"),
        (GOOD | {"labels": ["x"] * (MOST_LABELS + 1)}, "answers.labels must be"),
        (GOOD | {"words": [1, 2]}, "answers.words must be three numbers"),
        (GOOD | {"words": [1, 2, "3"]}, "answers.words must be three numbers"),
        (GOOD | {"words": [3, 2, 1]}, "in ascending order"),
        (GOOD | {"words": [-1, 2, 3]}, "of at least 0"),
        (GOOD | {"words": [1, 2, float("nan")]}, "answers.words must be three numbers"),
        (GOOD | {"words": [1, 2, float("inf")]}, "answers.words must be three numbers"),
        (GOOD | {"words": [False, True, True]}, "answers.words must be three numbers"),
    ],
)
def test_wrong_values_are_named(values: Any, reason: str) -> None:
    assert answers_from(GOOD) == Answers("label", ("yes", "no"), (1, 1, 2))
    with pytest.raises(InvalidSpecification, match=reason):
        answers_from(values)


def test_letters_without_lettered_options_are_labels() -> None:
    answers, choices = ["B", "A"], [("first", "second", "third")] * 2
    lettered = ["Which?\nA. first\nB. second\nC. third"] * 2
    assert describe_answers(answers, choices, lettered).kind == "letter"
    plain = describe_answers(answers, choices, ["Which: first, second or third?"] * 2)
    assert (plain.kind, set(plain.labels)) == ("label", {"A", "B"})
