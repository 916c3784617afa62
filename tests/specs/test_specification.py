"""Specifications: made from texts, written, read again."""

from pathlib import Path

import numpy as np
import pytest

from specs.encoder import STATIC_ENCODER, load_encoder
from specs.errors import InvalidSpecification
from specs.rkme import squared_mmd
from specs.specification import load_specification, make_specification, save_specification
from specs.views import bare_prompt

COLOURS = [
    f"Which colour is the {thing}?" for thing in ("door", "house", "sky", "car", "flower", "sea", "tree", "coat")
]
PRICES = [f"How much is {count} times {price} dollars?" for count in (2, 3, 4) for price in (5, 7, 9)]
encoder = load_encoder(STATIC_ENCODER)


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    made = make_specification({"whole": COLOURS, "examples": PRICES}, encoder)
    save_specification(made, tmp_path / "specification")
    read = load_specification(tmp_path / "specification")
    assert [(view.name, view.rows, len(view.points)) for view in read.views] == [
        (view.name, view.rows, len(view.points)) for view in made.views
    ]
    assert np.abs(read.whole_set.points - made.whole_set.points).max() < 1e-3
    assert read.gamma == made.gamma
    assert sorted(path.name for path in (tmp_path / "specification").iterdir()) == [
        "points.safetensors",
        "specification.json",
    ]


def test_views_count_equally_whatever_their_rows() -> None:
    made = make_specification({"whole": COLOURS, "examples": PRICES[:2]}, encoder)
    assert [view.weights.sum() for view in made.views] == pytest.approx([0.5, 0.5])


def test_few_rows_get_fewer_points_than_rows() -> None:
    made = make_specification({"whole": COLOURS}, encoder)
    assert 1 <= len(made.views[0].points) <= 2 / 3 * len(COLOURS)


def test_the_files_hold_no_text(tmp_path: Path) -> None:
    save_specification(make_specification({"whole": COLOURS, "examples": PRICES}, encoder), tmp_path)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(word in content for word in (b"door", b"flower", b"dollars"))


def test_sets_of_one_kind_are_nearer_than_sets_of_two_kinds() -> None:
    half, other, prices = (
        make_specification({"whole": texts}, encoder).whole_set for texts in (COLOURS[::2], COLOURS[1::2], PRICES)
    )
    assert squared_mmd(half, other, 1.0) < squared_mmd(half, prices, 1.0)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [({}, "at least one text"), ({"whole": []}, "at least one text"), ({"wohle": ["a"]}, "unknown views")],
)
def test_nothing_to_specify_is_refused(texts: dict[str, list[str]], reason: str) -> None:
    with pytest.raises(InvalidSpecification, match=reason):
        make_specification(texts, encoder)


@pytest.mark.parametrize(
    ("prompt", "bare"),
    [
        ("Name the colour.\nA red door.\nAnswer:", "A red door."),
        ("Read the table.\na | b\nConversation:\nQ1: which?\nAnswer to Q1:", "a | b\nConversation:\nQ1: which?"),
        ("请回答。\n题目：一加一\n答案：", "题目：一加一"),
        ("One line only", "One line only"),
        ("", ""),
        ("Instruction\nAnswer:", "Answer:"),
    ],
)
def test_bare_prompts_lose_instruction_and_cue(prompt: str, bare: str) -> None:
    assert bare_prompt(prompt) == bare
