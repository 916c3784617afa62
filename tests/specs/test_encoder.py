"""The encoder on ordinary and on odd text."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from specs.encoder import HEAD_CHARS, STATIC_ENCODER, TAIL_CHARS, load_encoder
from specs.errors import InvalidSpecification

encoder = load_encoder(STATIC_ENCODER)


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


def test_an_unknown_encoder_is_refused_by_name() -> None:
    with pytest.raises(InvalidSpecification, match="no-such-encoder"):
        load_encoder("no-such-encoder")


def test_loading_neither_imports_the_package_nor_configures_logging() -> None:
    program = (
        "import logging, sys; from specs.encoder import *; load_encoder(STATIC_ENCODER).encode(['x']);"
        "assert 'wordllama' not in sys.modules; assert not logging.getLogger().handlers"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
