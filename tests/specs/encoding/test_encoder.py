"""The encoder on ordinary and on odd text."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from specs.encoding.ask import split_prompt
from specs.encoding.ask_encoder import ASK_DIM, load_ask_encoder
from specs.encoding.encoder import (
    HEAD_CHARS,
    PROMPT_ENCODER,
    STATIC_ENCODER,
    TAIL_CHARS,
    load_encoder,
    load_prompt_encoder,
)
from specs.errors import InvalidSpecification

encoder = load_encoder(STATIC_ENCODER)
prompts = load_prompt_encoder()

READ = (
    "Translate this into French.\nThe sea is blue. The sand is warm.",
    "Question: A bus has 40 seats. Nine are free. How many people sit in it?\nAnswer:",
    "what are teh symtoms of diabtes",
    "Is this positive or negative? Answer with one of: positive, negative.\nShares fell by 4 %.",
    "MCQ: one letter as the answer.\nWhich gas do plants take in?\nA. Oxygen\nB. Carbon dioxide",
    "Hello,\nSentiment towards BP: shares fell by 4 % today\nThanks!",
    "El mar es azul.\ntraduce al inglés",
    "第一题：植物吸收哪种气体？\nA. 氧气\nB. 二氧化碳\n请给出选项字母。",
    "the cat sleeps on the sofa",
)
READ_SHA256 = "b6d6de320e10d3c5dd8585c244152fb470906a0c6e4c0c835f5ad28f400fcec0"
"""Of how version 2 of `PROMPT_ENCODER` divides and mends these prompts."""


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400))
def test_any_text_becomes_a_finite_unit_vector(text: str) -> None:
    vector = encoder.encode([text])[0]
    assert vector.shape == (encoder.dim,)
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\ud800 lone \udfff", "\x00", "🙂" * 50, "a" * 1_000_000])
def test_odd_text_becomes_a_finite_unit_vector(text: str) -> None:
    vector = encoder.encode([text])[0]
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_text_alone_has_the_vector_that_it_has_among_others() -> None:
    texts = ["What is 12 times 9?", "Shares fell by 4 % after the results.", "患者有发热和咳嗽。"]
    together = encoder.encode(texts)
    assert all(np.array_equal(encoder.encode([text])[0], vector) for text, vector in zip(texts, together, strict=True))


def test_nearness_follows_meaning_not_only_wording() -> None:
    stock, shares, poem = encoder.encode(
        ["The stock fell after weak earnings.", "Shares dropped on poor quarterly profit.", "Write a poem about snow."]
    )
    assert stock @ shares > stock @ poem


def test_what_stands_in_the_middle_of_a_long_text_is_not_read() -> None:
    head, tail = "h " * (HEAD_CHARS // 2), "t " * (TAIL_CHARS // 2)
    short, long = encoder.encode([head + "x" * 10 + tail, head + "y" * 500_000 + tail])
    assert short @ long > 0.99


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_any_prompt_becomes_a_finite_unit_vector(text: str) -> None:
    vector = prompts.encode([text])[0]
    assert vector.shape == (prompts.dim,) == (encoder.dim + ASK_DIM,)
    assert np.isfinite(vector).all()
    # an empty prompt has material of a shape and asks for nothing
    assert np.linalg.norm(vector) == pytest.approx(1 if text.strip() else 2**-0.5, abs=1e-5)


@pytest.mark.parametrize("text", ["\n\n", "\ud800 lone \udfff", "\x00", "🙂" * 50, "a" * 1_000_000])
def test_odd_prompts_become_finite_vectors(text: str) -> None:
    assert np.isfinite(prompts.encode([text])).all()


def test_a_prompts_parts_are_its_material_and_its_ask() -> None:
    row = "Operating profit rose to EUR 13.1 mn."
    texts = [
        f"Translate this into French.\n{row}",
        f"Is this good news?\n{row}",
        "Is this good news?\nSales fell by 4 %.",
    ]
    materials, asks = prompts.parts(prompts.encode(texts))
    assert materials[0] == pytest.approx(encoder.encode([row])[0], abs=1e-6)
    assert asks[1] == pytest.approx(prompts.encode_asks([("Is this good news?",)])[0], abs=1e-6)
    assert materials[0] == pytest.approx(materials[1], abs=1e-6)
    assert asks[1] == pytest.approx(asks[2], abs=1e-6)
    assert asks[0] @ asks[1] < 0.5
    assert prompts.join(materials, asks) == pytest.approx(prompts.encode(texts), abs=1e-6)


def test_both_parts_count_alike() -> None:
    """‖x − y‖² is the mean of the two parts' squared distances."""
    one, other = prompts.encode(["Why is this so?\nThe sea is blue.", "Translate it.\nShares fell by 4 %."])
    (material, other_material), (ask, other_ask) = (part for part in prompts.parts(np.stack([one, other])))
    parts = [np.sum((material - other_material) ** 2), np.sum((ask - other_ask) ** 2)]
    assert np.sum((one - other) ** 2) == pytest.approx(np.mean(parts), abs=1e-5)


def test_each_encoder_is_loaded_once_and_found_by_its_id() -> None:
    assert load_encoder(PROMPT_ENCODER) is load_prompt_encoder()
    assert (prompts.id, encoder.id) == (PROMPT_ENCODER, STATIC_ENCODER)
    assert prompts.fingerprint != encoder.fingerprint


def test_prompts_that_are_read_otherwise_need_another_name() -> None:
    """No fingerprint covers the code that divides and mends prompts, so a change of it must change the encoder's id:
    vectors of two ways of reading are not comparable. After a change name the next version here and in
    `specs.encoding.encoder`, and make the home and all specifications anew."""
    mended = load_ask_encoder().spelling.mended
    found = [[*map(mended, split_prompt(prompt).ask), split_prompt(prompt).material] for prompt in READ]
    assert PROMPT_ENCODER.startswith("ask+material-v2:")
    assert hashlib.sha256(repr(found).encode()).hexdigest() == READ_SHA256


def test_an_unknown_encoder_is_refused_by_name() -> None:
    with pytest.raises(InvalidSpecification, match="no-such-encoder"):
        load_encoder("no-such-encoder")


def test_loading_neither_imports_the_package_nor_configures_logging() -> None:
    program = (
        "import logging, sys; from specs.encoding.encoder import *; load_encoder(STATIC_ENCODER).encode(['x']);"
        "assert 'wordllama' not in sys.modules; assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
