"""The rules that stand beside each other."""

from dataclasses import replace

import numpy as np
import pytest

import router.selection
from benchmarks.common.choosers import (
    AlwaysBase,
    ByDomain,
    OurRule,
    RememberingEncoder,
    WithoutAsk,
    keeping_base,
    with_parts_off,
)
from benchmarks.common.tasks import STARTER_LEARNWARES
from router.settings import SelectionSettings
from router.turn import Conversation
from specs.capability import harm
from specs.encoding.ask_encoder import ASK_DIM
from specs.encoding.encoder import load_prompt_encoder
from specs.home import load_home
from specs.learnware import Learnware, load_learnwares
from specs.off_task import UNMEASURED_LOSS, Kind

SENTIMENT = (
    "What is the sentiment of this financial tweet? Answer with one of: positive, neutral, negative.\n"
    "$ABC shares rise 4% after the company lifts its forecast.\nAnswer:"
)
OTHER = "Translate this into French.\n$ABC shares rise 4% after the company lifts its forecast."
POEM = "Write a poem about autumn."


@pytest.fixture(scope="module")
def learnwares() -> list[Learnware]:
    return list(load_learnwares(STARTER_LEARNWARES))


@pytest.fixture(scope="module")
def encoder() -> RememberingEncoder:
    return RememberingEncoder(load_prompt_encoder())


def one_turn(text: str) -> Conversation:
    return Conversation("", (text,))


@pytest.mark.slow
def test_the_rules_differ_where_they_should(learnwares: list[Learnware], encoder: RememberingEncoder) -> None:
    ours, by_domain = OurRule(learnwares, encoder, SelectionSettings()), ByDomain(learnwares, encoder)
    texts = [SENTIMENT, OTHER, POEM]
    assert [ours.choose(one_turn(text)).learnware_id for text in texts] == ["finance-tfns", None, None]
    chosen = [by_domain.choose(one_turn(text)).learnware_id for text in texts]
    assert None not in chosen
    assert [str(name).split("-")[0] for name in chosen[:2]] == ["finance", "finance"]
    assert [AlwaysBase().choose(one_turn(text)).learnware_id for text in texts] == [None] * 3


def test_a_text_is_encoded_once() -> None:
    class Counting:
        id, dim, fingerprint, calls = "counting", 3, "", 0

        def encode(self, texts):  # type: ignore[no-untyped-def]
            self.calls += len(texts)
            return np.ones((len(texts), 3), np.float32)

    inner = Counting()
    remembering = RememberingEncoder(inner)  # type: ignore[arg-type]
    assert remembering.encode(["a", "b", "a"]).shape == (3, 3)
    remembering.encode(["b"])
    assert inner.calls == 2


def test_without_the_ask_only_the_material_is_left(encoder: RememberingEncoder) -> None:
    whole, blind = encoder.encode([SENTIMENT]), WithoutAsk(encoder).encode([SENTIMENT])
    assert not blind[:, -ASK_DIM:].any()
    assert np.array_equal(blind[:, :-ASK_DIM], whole[:, :-ASK_DIM])
    assert whole[:, -ASK_DIM:].any()  # what was remembered is as it was


@pytest.mark.slow
def test_parts_come_back_after_they_were_off(learnwares: list[Learnware], encoder: RememberingEncoder) -> None:
    ours = OurRule(learnwares, encoder, SelectionSettings())
    names = [one.name for one in with_parts_off(learnwares, encoder, SelectionSettings(), ours.follow_ups)]
    assert len(set(names)) == len(names) >= 4
    assert router.selection.load_home is load_home
    again = OurRule(learnwares, encoder, SelectionSettings())
    vector = encoder.encode([OTHER])[0]
    same = again.selector.choose_embedded(vector).score
    assert same == pytest.approx(ours.selector.choose_embedded(vector).score)


def test_a_learnware_taken_to_keep_the_base_loses_little_off_its_task(learnwares: list[Learnware]) -> None:
    one = replace(learnwares[0], capability=None)
    (kept,) = keeping_base([one])
    assert harm(one.capability, Kind.EVERYDAY) == UNMEASURED_LOSS
    assert all(harm(kept.capability, kind) < 0.1 for kind in Kind)
