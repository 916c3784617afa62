"""Parameter vectors: they come back as they were, compare by direction, and a wrong file is refused with the reason."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from specs.errors import InvalidSpecification
from specs.pave import (
    PAVE_FILE,
    Basis,
    ParameterVector,
    cosine,
    dump_vector,
    is_vector,
    load_vector,
    match,
    parse_vector,
    save_vector,
)
from tests.specs.parameter_vectors import SMALL, random_vector


def file_with(parts: dict[str, np.ndarray] | None = None, **changes: Any) -> bytes:
    """A file with other tensors, or other values of the description (None: left out)."""
    vector = random_vector()
    tensors = {name: part.astype(np.float16) for name, part in vector.parts.items()} | (parts or {})
    description = {"type": "pave", "format": 1, "basis": asdict(SMALL), "rows": 20} | changes
    return save(tensors, metadata={"specification": json.dumps(description)})


def test_a_vector_comes_back_and_the_same_one_has_the_same_bytes(tmp_path: Path) -> None:
    vector = random_vector()
    assert load_vector(tmp_path) is None
    save_vector(vector, tmp_path / "specification")
    again = load_vector(tmp_path / "specification")
    assert again is not None
    assert (again.basis, again.rows) == (vector.basis, 20)
    np.testing.assert_array_equal(again.tau, vector.tau)
    assert dump_vector(again) == dump_vector(vector)
    assert is_vector(tmp_path / "specification" / PAVE_FILE)


def test_only_the_direction_is_compared() -> None:
    vector = random_vector()
    twice = replace(vector, parts={name: 2 * part for name, part in vector.parts.items()})
    opposite = replace(vector, parts={name: -part for name, part in vector.parts.items()})
    assert cosine(vector, twice) == pytest.approx(1.0)
    assert cosine(vector, opposite) == pytest.approx(-1.0)
    assert match(vector, twice) == pytest.approx(1 / (1 + np.exp(-10)))
    assert match(vector, random_vector(1)) == match(random_vector(1), vector) < match(vector, twice)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"sha256": "cd" * 32}, "sha256"), ({"seed": 7}, "seed 7 instead of 0"), ({"steps": 3}, "steps")],
)
def test_vectors_of_two_bases_are_not_compared(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSpecification, match=f"another basis: {named}"):
        cosine(random_vector(), random_vector(0, replace(SMALL, **change)))


def test_the_proxys_name_does_not_matter_its_weights_do() -> None:
    assert cosine(random_vector(), random_vector(0, replace(SMALL, proxy="a copy"))) == pytest.approx(1.0)


WRONG = np.zeros((6, 2), np.float16)
NAN = np.full((6, 2), np.nan, np.float16)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no safetensors", "no parameter vector"),
        (file_with()[:-5], "no parameter vector"),
        (save({"a": WRONG}), "no parameter vector"),
        (file_with(type="rkme-text"), "type 'pave'"),
        (file_with(format=9), "format 1"),
        (file_with(rows=0), "rows must be"),
        (file_with(rows=True), "rows must be"),
        (file_with(basis={}), "basis must be an object"),
        (file_with(basis=asdict(SMALL) | {"modules": "q_proj"}), "basis must be an object"),
        (file_with(basis=asdict(SMALL) | {"rank": 4}), r"q_proj has shape \(6, 2\)"),
        (file_with(basis=asdict(SMALL) | {"rank": True}), "rank must be a whole number"),
        (file_with(basis=asdict(SMALL) | {"first": 2}), "first is 2, but the proxy has 2 layers"),
        (file_with(basis=asdict(SMALL) | {"sha256": "weights"}), "sha256 must be 64"),
        (file_with(basis=asdict(SMALL) | {"learning_rate": 0.0}), "learning_rate must be"),
        (file_with(basis=asdict(SMALL) | {"modules": ["../q"]}), "modules must name"),
        (file_with(basis=asdict(SMALL) | {"layers": 3}), "wrong are .*2.q_proj"),
        (file_with({"9.q_proj": WRONG}), "wrong are .*9.q_proj"),
        (file_with({"0.q_proj": np.zeros((6, 3), np.float16)}), r"0.q_proj has shape \(6, 3\)"),
        (file_with({"0.q_proj": np.ones((6, 2), np.float32)}), "type float32"),
        (file_with({"1.q_proj": np.ones((5, 2), np.float16)}), "another shape than the same module"),
        (file_with({"0.q_proj": NAN}), "0.q_proj has NaN"),
        (file_with({"0.q_proj": WRONG, "1.q_proj": WRONG}), "every number is 0"),
        (b" " * (9 << 20), "at most 8 MiB"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(InvalidSpecification, match=reason):
        parse_vector(content)


def test_a_wrong_file_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / PAVE_FILE).write_bytes(b"{}")
    with pytest.raises(InvalidSpecification, match=r"pave\.safetensors: this is no parameter vector"):
        load_vector(tmp_path)


def test_one_b_holds_rank_numbers_for_each_feature() -> None:
    vector: ParameterVector = random_vector(0, Basis(proxy="p", layers=3, first=1, modules=("a", "b"), rank=3))
    assert len(vector.tau) == 2 * 2 * 6 * 3
    assert np.linalg.norm(vector.tau) == pytest.approx(1.0)
