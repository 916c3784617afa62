"""Slips of the keyboard are mended; names, terms and other languages are left alone."""

import pytest
from hypothesis import given, settings, strategies as st

from specs.encoding.encoder import load_prompt_encoder
from specs.encoding.spelling import LEAST_LETTERS, Spelling

WORDS = ("the", "side", "effects", "common", "medicine", "effect", "cement")
SPELLING = Spelling({word: number for number, word in enumerate(WORDS)} | {"##ing": 900, "mendicant": 20_000})


@pytest.mark.parametrize(
    ("slip", "right"),
    [
        ("efects", "effects"),  # left out
        ("effeccts", "effects"),  # doubled
        ("effetcs", "effects"),  # swapped
        ("effwcts", "effects"),  # mistaken
        ("medicne", "medicine"),
    ],
)
def test_one_slip_is_mended(slip: str, right: str) -> None:
    assert SPELLING.mended(f"side {slip}?") == f"side {right}?"


@pytest.mark.parametrize(
    "text",
    ["side effects", "Metformin", "a medicines list", "teh", "xx", "médicine", "mendicent", "commonly", "efcts", ""],
    ids=lambda text: text or "nothing",
)
def test_what_is_known_short_foreign_or_far_from_any_common_word_stays(text: str) -> None:
    assert SPELLING.mended(text) == text


def test_of_several_near_words_the_commonest_is_taken() -> None:
    assert Spelling({"medicine": 5, "medicins": 9}).mended("medicinz") == "medicine"
    assert Spelling({"cement": 3, "dement": 2}).mended("fement") == "dement"


def test_a_question_with_slips_is_near_to_the_one_without() -> None:
    encoder = load_prompt_encoder()
    whole, slips, other = encoder.encode(
        ["What are the symptoms of diabetes?", "What are teh symtoms of diabtes?", "Write a poem about the ocean."]
    )
    assert whole @ slips > 0.9 > whole @ other


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("efctsmdincE é1.-\ud800"), max_size=60))
def test_any_text_keeps_all_but_its_words(text: str) -> None:
    mended = SPELLING.mended(text)
    outside = [letter for letter in text if not letter.isalpha()]
    assert [letter for letter in mended if not letter.isalpha()] == outside
    assert SPELLING.mended(text) == mended
    if all(len(word) < LEAST_LETTERS for word in text.split()):
        assert mended == text
