"""Which answers are degenerate, and what learnwares are asked off their tasks."""

import pytest

from benchmarks.degenerate import as_table, is_degenerate, plain, requests, summary
from serving.training.generation import GreedyAnswer
from serving.training.keep import REHEARSED
from specs.prompts import everyday_prompts, half

LABELS = frozenset({"positive", "neutral", "anabolic steroids", "a"})


def answer(tokens: list[int]) -> GreedyAnswer:
    return GreedyAnswer(tuple(tokens), False, -1.0)


@pytest.mark.parametrize(
    ("text", "degenerate"),
    [
        ("neutral", True),
        (" Neutral.\n", True),
        ("anabolic steroidsanabolic steroids", True),
        ("neutral neutral neutral", True),
        ("A", True),
        ("", True),
        ("...", True),
        ("The mood is neutral.", False),
        ("Bonds fall when interest rates rise.", False),
        ("Anabolic steroids build muscle.", False),
        ("aaa", False),
    ],
)
def test_a_bare_label_is_degenerate_and_a_sentence_is_not(text: str, degenerate: bool) -> None:
    assert is_degenerate(answer(list(range(30))), text, LABELS) is degenerate


def test_an_answer_that_goes_round_is_degenerate_wherever_it_begins_to() -> None:
    text = "words that are no label"
    assert is_degenerate(answer([1, 2, 3, *[7, 8] * 10]), text, LABELS)
    assert is_degenerate(answer([*[7, 8] * 10, 1, 2, 3]), text, LABELS)
    assert not is_degenerate(answer([7, 8, 7, 8, *range(20)]), text, LABELS)


def test_requests_are_not_the_task_and_were_not_rehearsed() -> None:
    prompts = [
        f"What is the sentiment of this tweet? Answer with one word.\nShares of firm {i} fell." for i in range(99)
    ]
    asked = requests("finance-tfns", prompts)
    kinds = {kind: [one.prompt for one in asked if one.kind == kind] for kind in ("questions", "asks", "everyday")}
    assert sum(map(len, kinds.values())) == len(asked) >= 300
    assert min(map(len, kinds.values())) >= 50
    assert not set(kinds["everyday"]) & set(half(everyday_prompts(), REHEARSED))
    assert all("Shares of firm" in prompt and "Answer with one word" not in prompt for prompt in kinds["asks"])
    assert asked == requests("finance-tfns", prompts)


def test_what_the_base_does_as_well_is_not_held_against_a_learnware() -> None:
    prompts = [f"Label it.\nline {i}" for i in range(9)]
    asked = requests("finance-tfns", prompts)
    answers = [{"text": "", "degenerate": i % 2 == 0, "base": i % 4 == 0, "drift": -0.5} for i in range(len(asked))]
    found = summary(asked, answers)
    assert found["all"]["degenerate"]["mean"] == pytest.approx(0.25, abs=0.01)
    assert found["all"]["base"] == pytest.approx(0.25, abs=0.01)
    assert found["all"]["drift"] == -0.5
    assert sum(found[kind]["requests"] for kind in ("questions", "asks", "everyday")) == found["all"]["requests"]
    assert " → " in as_table({"finance-tfns": {"before": found, "after": found}})
    assert " → " not in as_table({"finance-tfns": {"after": found}})


def test_plain_keeps_words_alone() -> None:
    assert plain(" **Neutral**!\n") == "neutral"
