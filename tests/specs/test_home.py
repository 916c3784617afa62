"""The base model's home: it is of the present prompts and encoder, and other asks can be put to any material."""

import importlib.resources
from pathlib import Path

import numpy as np
import pytest

from specs import home as home_module, safetensors_file as single_file
from specs.encoding.ask import split_prompt
from specs.encoding.encoder import PromptEncoder, load_prompt_encoder
from specs.errors import StartupError
from specs.home import (
    EVERYDAY,
    EVERYDAY_POINTS,
    FILE,
    QUESTION_POINTS,
    QUESTIONS,
    load_home,
    make_home,
    other_asks_on,
    prompts_hash,
)
from specs.prompts import DOMAINS, everyday_prompts, other_asks, system_prompts


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return load_prompt_encoder()


def shipped() -> bytes:
    return importlib.resources.files("specs.prompts").joinpath(FILE).read_bytes()


def test_the_shipped_home_was_made_from_the_present_prompts_with_the_present_encoder(encoder: PromptEncoder) -> None:
    """When this fails: `python -m specs.home`."""
    _, description = single_file.parse(shipped())
    assert description["prompts"] == prompts_hash()
    assert description["encoder"] == encoder.fingerprint


def test_it_has_a_set_for_everyday_prompts_and_for_each_domains_questions(encoder: PromptEncoder) -> None:
    home = load_home()
    assert set(home.sets) == {EVERYDAY, *(domain + QUESTIONS for domain in DOMAINS)}
    for name, one in home.sets.items():
        assert len(one.points) == (EVERYDAY_POINTS if name == EVERYDAY else QUESTION_POINTS)
        assert one.points.shape[1] == encoder.dim
        assert one.weights.min() >= 0
        assert one.weights.sum() == pytest.approx(1)
    assert len(home.asks) == len(other_asks())
    assert np.linalg.norm(home.asks, axis=1) == pytest.approx(1, abs=1e-2)
    assert home.asks[0] == pytest.approx(encoder.encode_asks([split_prompt(other_asks()[0]).ask])[0], abs=1e-2)


@pytest.mark.slow
def test_its_everyday_points_stand_for_everyday_prompts(encoder: PromptEncoder) -> None:
    everyday = load_home().sets[EVERYDAY]
    mean = everyday.weights @ everyday.points
    of_prompts = encoder.encode(everyday_prompts()[::10]).mean(0)
    cosine = mean @ of_prompts / np.linalg.norm(mean) / np.linalg.norm(of_prompts)
    assert cosine > 0.9


def test_a_home_of_another_encoder_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, description = single_file.parse(shipped())
    (tmp_path / FILE).write_bytes(single_file.dump(tensors, description | {"encoder": "0" * 64}))
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    load_home.cache_clear()
    try:
        with pytest.raises(StartupError, match=r"python -m specs\.home"):
            load_home()
    finally:
        load_home.cache_clear()


def test_a_written_home_reads_back(tmp_path: Path, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    few = everyday_prompts()[:12], {"finance": ("What is a bond?", "Why do shares fall?")}, other_asks()[:5]
    systems = {"instruction": system_prompts("instruction")[:9], "neutral": system_prompts("neutral")[:9]}
    made = make_home(encoder, *few, *systems.values())
    for name, value in zip(("everyday_prompts", "domain_questions", "other_asks"), few, strict=True):
        monkeypatch.setattr(home_module, name, lambda value=value: value)
    monkeypatch.setattr(home_module, "system_prompts", systems.__getitem__)
    home_module.write_home(tmp_path / FILE)
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    load_home.cache_clear()
    try:
        read = load_home()
    finally:
        load_home.cache_clear()
    assert set(read.sets) == {EVERYDAY, "finance questions"}
    assert read.sets[EVERYDAY].points == pytest.approx(made.sets[EVERYDAY].points, abs=1e-3)
    assert read.instruction == pytest.approx(made.instruction)
    assert read.sets[EVERYDAY].weights == pytest.approx(made.sets[EVERYDAY].weights, abs=1e-5)
    assert read.asks == pytest.approx(made.asks, abs=1e-3)


def test_other_asks_meet_each_material_and_keep_something_of_the_own_ask_in_turn(encoder: PromptEncoder) -> None:
    materials, own = encoder.parts(encoder.encode(["Which colour?\nA red door.", "How much?\nTwo apples."]))
    asks = encoder.encode_asks([("Translate this.",), ("Summarise it.",), ("Why?",)])
    composed = other_asks_on(materials, own, asks, 24)
    assert composed.shape == (24, encoder.dim)
    assert np.linalg.norm(composed, axis=1) == pytest.approx(1, abs=1e-4)
    found, asked = encoder.parts(composed)
    near = (found @ materials.T).round(4) == 1
    assert near.sum(1).tolist() == [1] * 24
    assert near.sum(0).tolist() == [12, 12]
    alone = [float(asked[row] @ asks[row % 3]) > 1 - 1e-4 for row in range(24)]
    assert alone == [row // 3 % 2 == 0 for row in range(24)]
    assert np.array_equal(composed, other_asks_on(materials, own, asks, 24))
