"""System prompts that say what is to be done with every message, and those that do not."""

import numpy as np
import pytest

from specs.encoding.encoder import load_prompt_encoder
from specs.encoding.system_prompt import fit_instruction, instruction_probability
from specs.home import load_home
from specs.prompts import half, system_prompts


def probability(system: str) -> float:
    return instruction_probability(system, load_home().instruction, load_prompt_encoder())


@pytest.mark.parametrize(
    "system",
    [
        "You are a translator. Translate whatever the user writes into Dutch.",
        "Summarise each message in one sentence.",
        "Label every message as complaint, praise or question. Output the label only.",
        "Extract all names and dates from the text and return them as JSON.",
    ],
)
def test_an_instruction_is_one(system: str) -> None:
    assert probability(system) > 0.7


@pytest.mark.parametrize(
    "system",
    [
        "You are a helpful assistant.",
        "You are Mia, the friendly assistant of a hardware shop. Be polite and brief.",
        "Current date: 3 April 2026. Knowledge cutoff: June 2025.",
        "Format your answers in Markdown and keep them below 200 words.",
        "",
    ],
)
def test_a_persona_a_date_or_a_format_is_none(system: str) -> None:
    assert probability(system) < 0.7


@pytest.mark.slow
def test_what_was_fitted_on_one_half_holds_on_the_other() -> None:
    encoder = load_prompt_encoder()
    instructions, others = system_prompts("instruction"), system_prompts("neutral")
    fitted = fit_instruction(half(instructions, 0), half(others, 0), encoder)
    found = [instruction_probability(text, fitted, encoder) > 0.5 for text in half(instructions, 1)]
    passed = [instruction_probability(text, fitted, encoder) <= 0.5 for text in half(others, 1)]
    assert np.mean(found) > 0.7
    assert np.mean(passed) > 0.7


def test_of_a_long_system_prompt_only_the_ends_are_read() -> None:
    filler = "The office opens at nine and closes at five on every working day of the year. " * 20_000
    assert probability(f"Translate every message into German.\n{filler}") == pytest.approx(
        probability(f"Translate every message into German.\n{filler * 2}")
    )
