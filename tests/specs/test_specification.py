"""Specifications: made from texts, written, read again."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from specs.answers.description import Answers
from specs.compositions import bare_prompt
from specs.encoding.encoder import PROMPT_ENCODER, STATIC_ENCODER, load_prompt_encoder
from specs.errors import InvalidSpecification
from specs.rkme import squared_mmd
from specs.specification import load_specification, make_specification, save_specification, with_asks
from tests.specs.learnware_folder import write_format_1

COLOURS = [
    f"Which colour is the {thing}?" for thing in ("door", "house", "sky", "car", "flower", "sea", "tree", "coat")
]
PRICES = [f"How much is {count} times {price} dollars?" for count in (2, 3, 4) for price in (5, 7, 9)]
encoder = load_prompt_encoder()


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


def test_answers_and_declined_requests_read_back(tmp_path: Path) -> None:
    answers = Answers("label", ("red", "blue"), (1.0, 1.0, 2.0))
    save_specification(make_specification({"whole": COLOURS}, encoder, 50, answers, PRICES), tmp_path)
    read = load_specification(tmp_path)
    assert read.answers == answers
    assert read.declined is not None
    assert read.declined.shape[1] == encoder.dim
    assert 1 <= len(read.declined) <= 2 / 3 * len(PRICES)
    assert not np.isin(read.declined, read.whole_set.points).all()


@pytest.mark.parametrize(
    ("declined", "reason"),
    [
        (np.zeros((2, 3), np.float16), "of the same length as points"),
        (np.zeros((0, encoder.dim), np.float16), "1 to 2000 finite points"),
        (np.full((1, encoder.dim), np.inf, np.float16), "finite points"),
        (np.zeros(encoder.dim, np.float16), "of the same length as points"),
    ],
)
def test_wrong_declined_points_are_refused(tmp_path: Path, declined: np.ndarray, reason: str) -> None:
    save_specification(make_specification({"whole": COLOURS}, encoder), tmp_path)
    points = tmp_path / "points.safetensors"
    save_file(load_file(points) | {"declined": declined}, points)
    with pytest.raises(InvalidSpecification, match=reason):
        load_specification(tmp_path)


def test_a_format_is_read_with_its_own_encoder_and_views_only(tmp_path: Path) -> None:
    save_specification(make_specification({"whole": COLOURS}, encoder), tmp_path)
    path = tmp_path / "specification.json"
    description = json.loads(path.read_text())
    for changes, reason in (
        ({"format": 1}, "format 1 is read with"),
        ({"format": 3}, "reads 'rkme-text', format 1 or 2"),
        ({"format": True}, "reads 'rkme-text'"),
        ({"views": [description["views"][0] | {"name": "bare"}]}, "distinct ones of"),
        ({"answers": {"kind": "label"}}, "answers must be an object"),
    ):
        path.write_text(json.dumps(description | changes))
        with pytest.raises(InvalidSpecification, match=reason):
            load_specification(tmp_path)


def test_format_1_takes_the_asks_of_requests_and_keeps_its_points(tmp_path: Path) -> None:
    write_format_1(tmp_path, COLOURS)
    old = load_specification(tmp_path)
    assert (old.encoder_id, old.dim) == (STATIC_ENCODER, 536)
    made = with_asks(old, ["Which colour is it?", "Translate this into French."])
    assert (made.encoder_id, made.encoder_fingerprint, made.dim) == (PROMPT_ENCODER, encoder.fingerprint, encoder.dim)
    materials, asks = encoder.parts(made.whole_set.points)
    assert materials == pytest.approx(old.whole_set.points, abs=1e-5)
    expected = encoder.encode_asks([("Which colour is it?",), ("Translate this into French.",)])
    assert asks == pytest.approx(expected[np.arange(len(asks)) % 2], abs=1e-5)
    assert with_asks(made, []) is made
    with pytest.raises(InvalidSpecification, match="needs examples or a description"):
        with_asks(old, [])


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
