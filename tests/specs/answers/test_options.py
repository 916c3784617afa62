"""Options with letters, as people write them."""

import pytest

from specs.answers.options import offered_letters, offers_letters


@pytest.mark.parametrize(
    "text",
    [
        "Which one floats?\nA. iron\nB. cork\nC. lead",
        "Which one floats?\nA. iron\nB. cork",
        "Which one floats? A) iron B) cork C) lead D) gold",
        "which one floats (a) iron (b) cork (c) lead",
        "下列哪个数最大？\nA．1\nB．2\nC．3",
        "A. iron\nB. cork\nC. lead\nWhich one floats?",
        "Which one floats?\n- **A.** iron\n- **B.** cork\n- **C.** lead",
        'Which one floats? {"A": "iron", "B": "cork", "C": "lead"}',
        "Which one floats?\nA - iron\nB - cork\nC - lead",
        f"{'A long story. ' * 500}Which one floats?\nA: iron\nB: cork\nC: lead\nAnswer:",
    ],
)
def test_lettered_options_are_seen(text: str) -> None:
    assert offers_letters(text)


@pytest.mark.parametrize(
    "text",
    [
        "Is it better to take vitamin A. or B. complex? Also C.",
        "Is it A. iron or B. cork?",
        "B. cork\nC. lead\nD. gold",
        "A. iron\nC. cork\nD. lead",
        "1. wash\n2. rinse\n3. repeat",
        "A. Smith and B. Jones wrote it with D. Brown.",
        "",
    ],
)
def test_other_texts_offer_none(text: str) -> None:
    assert not offers_letters(text)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("Which one floats?\nA. iron\nB. cork", "AB"),
        ("which one floats (a) iron (b) cork (c) lead", "abc"),
        ("A. one\nB. two\nAnswer: A\n\nA. iron\nB. cork\nC. lead\nD. gold\n\nA. x\nB. y", "ABCD"),
        ("Is it A. iron or B. cork?", ""),
    ],
)
def test_the_letters_are_those_of_the_longest_list(text: str, letters: str) -> None:
    assert "".join(offered_letters(text)) == letters
