"""The shipped banks of prompts: how many, none twice, none in the wrong bank, whole in a wheel."""

import re
import tomllib
from fnmatch import fnmatch
from typing import get_args

import pytest

from specs import prompts
from specs.card import load_card
from specs.prompts import (
    DOMAINS,
    AskKind,
    domain_questions,
    everyday_prompts,
    half,
    near_asks,
    other_asks,
    own_asks,
    system_prompts,
)
from tests.support import ROOT

BANKS = {
    "everyday": everyday_prompts(),
    **domain_questions(),
    "other_asks": other_asks(),
    "near_asks": near_asks(),
    "own_asks": tuple(ask for kind in get_args(AskKind) for ask in own_asks(kind)),
    "system_prompts": (*system_prompts("instruction"), *system_prompts("neutral")),
}
CARDS = [load_card(path) for path in sorted((ROOT / "serving" / "starter_learnwares").glob("*/learnware.yaml"))]

EXERCISE = re.compile(
    r"\b(derivative|differentiate|integral|integrate|eigen\w+|solve for|theorem|probability|polynomial|quadratic|"
    r"triangle|percent\w*|fractions?|calculus|algebra|geometry|arithmetic|median|logarithm|prime number)s?\b"
    r"|\d\s*[+×÷*]\s*\d|\dx\b|\bx\^\d",
    re.IGNORECASE,
)
"""Words and signs of mathematics exercises, whatever they ask for."""
FINANCE = re.compile(
    r"\b(stocks|shares|mortgages?|invest(ing|ment|or)s?|tax(es)?|inflation|interest rates?|portfolio|dividends?|"
    r"pension|insurance|accounting|bitcoin|crypto\w*|revenue|debts?)\b",
    re.IGNORECASE,
)
HEALTHCARE = re.compile(
    r"\b(symptoms?|diabetes|diseases?|medicines?|medical|healthy?|therap(y|ist)|diet|nutrition|vaccin\w+|drugs?|cancer|"
    r"pregnan(t|cy)|workout|calories|vitamins?|surgery|clinic)\b",
    re.IGNORECASE,
)


def plain(prompt: str) -> str:
    return " ".join(prompt.lower().split())


def is_word_problem(prompt: str) -> bool:
    """A question for a number or an amount, after at least two numbers that are no options of a choice."""
    numbers = re.findall(r"(?<![(\w])\d+(?:[.,]\d+)?(?![)\w])", prompt)
    asked = re.search(r"\bhow (many|much)\b|\bwhat is the (total|sum|average|difference)\b", prompt, re.IGNORECASE)
    return len(numbers) >= 2 and bool(asked) and "?" in prompt


@pytest.mark.parametrize(
    ("bank", "least"),
    [
        ("everyday", 1700),
        ("finance", 400),
        ("healthcare", 450),
        ("mathematics", 400),
        ("other_asks", 450),
        ("near_asks", 120),
        ("own_asks", 350),
        ("system_prompts", 250),
    ],
)
def test_a_bank_is_large_enough(bank: str, least: int) -> None:
    assert len(BANKS[bank]) >= least


def test_there_is_a_bank_for_each_domain_of_the_shipped_learnwares() -> None:
    assert {card.domain for card in CARDS} == set(DOMAINS) == set(domain_questions())


def test_no_prompt_comes_twice_within_or_across_banks() -> None:
    seen: dict[str, str] = {}
    twice = [
        (prompt, bank, seen[plain(prompt)])
        for bank, held in BANKS.items()
        for prompt in held
        if seen.setdefault(plain(prompt), bank) != bank
    ]
    assert not twice
    assert len(seen) == sum(map(len, BANKS.values()))


@pytest.mark.parametrize("bank", BANKS)
def test_prompts_are_clean(bank: str) -> None:
    held = BANKS[bank]
    assert not [prompt for prompt in held if prompt != prompt.strip() or not prompt or "\t" in prompt]


@pytest.mark.parametrize("prompt", ["Tom has 3 pens and buys 4 more. How many pens has he now?"])
def test_the_check_for_word_problems_finds_one(prompt: str) -> None:
    assert is_word_problem(prompt)


def test_no_everyday_prompt_is_a_mathematics_exercise() -> None:
    assert not [prompt for prompt in everyday_prompts() if is_word_problem(prompt) or EXERCISE.search(prompt)]


@pytest.mark.parametrize("vocabulary", [FINANCE, HEALTHCARE], ids=["finance", "healthcare"])
def test_no_everyday_prompt_is_about_another_domain(vocabulary: re.Pattern[str]) -> None:
    assert not [prompt for prompt in everyday_prompts() if vocabulary.search(prompt)]


def test_the_domains_vocabulary_is_that_of_their_banks() -> None:
    """The three checks above can fail: each finds its own domain's prompts, and more of them than of the others'."""
    for domain, vocabulary in {"finance": FINANCE, "healthcare": HEALTHCARE, "mathematics": EXERCISE}.items():
        found = {name: sum(bool(vocabulary.search(prompt)) for prompt in held) for name, held in BANKS.items()}
        assert found[domain] >= 30
        assert max(found, key=found.__getitem__) == domain


def test_no_prompt_is_a_shipped_learnwares_example() -> None:
    examples = {plain(example) for card in CARDS for example in card.examples}
    assert not [prompt for held in BANKS.values() for prompt in held if plain(prompt) in examples]


def test_escapes_are_read_as_line_breaks() -> None:
    for name, held in BANKS.items():
        assert any("\n" in prompt for prompt in held) or name in ("near_asks", "own_asks")
        assert not [prompt for prompt in held if "\\n" in prompt]


def test_asks_by_place_are_all_asks() -> None:
    before, after = other_asks("before"), other_asks("after")
    assert set(before) | set(after) == set(other_asks())
    assert set(before) & set(after)
    assert set(before) - set(after)
    assert set(after) - set(before)
    assert len(before) >= 150
    assert len(after) >= 150


@pytest.mark.parametrize("bank", BANKS)
def test_halves_are_disjoint_whole_and_nearly_equal(bank: str) -> None:
    held = BANKS[bank]
    first, second = half(held, 0), half(held, 1)
    assert not set(first) & set(second)
    assert sorted([*first, *second]) == sorted(held)
    assert 0.4 <= len(first) / len(held) <= 0.6


def test_a_prompt_stays_in_its_half_when_others_come_and_go() -> None:
    held = list(everyday_prompts())
    kept = held[::-3]
    assert set(half(kept, 0)) == set(half(held, 0)) & set(kept)


def test_a_wheel_holds_the_files() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        prompts.__name__
    ]
    files = [path.name for path in (ROOT / "specs" / "prompts").iterdir() if path.suffix not in (".py", ".pyc", "")]
    assert {*(f"{name}.txt" for name in BANKS), "home.safetensors"} == set(files)
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in files)
