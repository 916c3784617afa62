"""All types of specification through their one interface, alone and in a learnware's folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specs.adapter import adapter_hash
from specs.capability import Capability, ProbeScore
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidLearnware
from specs.learnware import load_learnware
from specs.market.checks import Requirements, check_learnware
from specs.market.intake import Limits, take
from specs.pave import PAVE_FILE, Basis
from specs.specification import make_specification
from specs.specification_types import (
    FOLDER,
    MEASURED,
    PARAMETER_VECTOR,
    RKME,
    TYPES,
    SpecificationType,
    specifications_of,
)
from tests.specs.learnware_folder import BASE, PROMPTS, write_learnware
from tests.specs.parameter_vectors import SMALL, random_vector

SCORE = ProbeScore(16, 0.75, 0.7, -0.4, 0.9375, 0.25, 0.3, -2.5)
WORSE = replace(SCORE, probability=0.2)
ENCODER = load_prompt_encoder()
COLOURS = make_specification({"whole": PROMPTS}, ENCODER, points=10)
SUMS = make_specification({"whole": [f"What is {n} plus {n * 3}?" for n in range(20)]}, ENCODER, points=10)
CAPABILITY = Capability(BASE, "0" * 64, "protocol", {"finance-tfns": SCORE, "finance-fpb": WORSE})


@pytest.mark.parametrize(
    ("kind", "value", "near", "far"),
    [
        (RKME, COLOURS, COLOURS.whole_set, SUMS.whole_set),
        (PARAMETER_VECTOR, random_vector(), random_vector(), random_vector(1)),
        (MEASURED, CAPABILITY, {"finance-tfns": 1.0, "finance-fpb": 0.2}, {"finance-fpb": 1.0, "other-task": 3.0}),
    ],
    ids=lambda value: getattr(value, "type", None),
)
def test_every_type_is_kept_read_scored_and_described(
    tmp_path: Path, kind: SpecificationType[Any, Any], value: Any, near: Any, far: Any
) -> None:
    assert kind in TYPES
    assert kind.load(tmp_path) is None
    kind.save(value, tmp_path)
    again = kind.load(tmp_path)
    assert type(again) is type(value)
    assert 0 <= kind.score(again, far) < kind.score(again, near) <= 1
    assert kind.describe(again)


def test_scores_are_what_they_say() -> None:
    assert RKME.score(COLOURS, COLOURS.whole_set) == pytest.approx(1.0)
    assert MEASURED.score(CAPABILITY, {"finance-tfns": 1.0, "finance-fpb": 1.0}) == pytest.approx(0.45)
    assert MEASURED.score(CAPABILITY, {"other-task": 1.0}) == 0.0


def with_all(folder: Path) -> Path:
    write_learnware(folder)
    PARAMETER_VECTOR.save(random_vector(), folder / FOLDER)
    MEASURED.save(replace(CAPABILITY, adapter_sha256=adapter_hash(folder)), folder / FOLDER)
    return folder


def test_a_learnware_carries_all_types(tmp_path: Path) -> None:
    folder = with_all(tmp_path / "whole")
    assert [kind.type for kind, _ in specifications_of(folder, BASE)] == ["rkme-text", "pave", "capability"]
    learnware = load_learnware(folder)
    assert learnware.vector is not None
    np.testing.assert_array_equal(learnware.vector.tau, random_vector().tau)
    assert learnware.capability is not None
    light = load_learnware(folder, weights=False)
    assert light.vector is None
    assert light.capability == learnware.capability


def test_the_market_takes_a_vector_and_refuses_one_of_another_basis(tmp_path: Path) -> None:
    folder, taken = with_all(tmp_path / "whole"), tmp_path / "taken"
    taken.mkdir()
    take(folder, taken, Limits())
    assert (taken / FOLDER / PAVE_FILE).read_bytes() == (folder / FOLDER / PAVE_FILE).read_bytes()
    assert check_learnware(taken, Requirements(BASE, basis=SMALL)).vector is not None
    with pytest.raises(InvalidLearnware, match="made in another basis: proxy 'tiny' instead of 'SmolLM2"):
        check_learnware(taken, Requirements(BASE, basis=Basis()))


def test_a_learnware_with_a_broken_vector_is_refused(tmp_path: Path) -> None:
    folder = with_all(tmp_path / "whole")
    path = folder / FOLDER / PAVE_FILE
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidLearnware, match=r"whole: pave\.safetensors: this is no parameter vector"):
        load_learnware(folder)


def test_a_learnware_without_reduced_sets_is_refused(tmp_path: Path) -> None:
    folder = with_all(tmp_path / "whole")
    (folder / FOLDER / "specification.json").unlink()
    with pytest.raises(InvalidLearnware, match=r"specification\.json is missing"):
        load_learnware(folder)
