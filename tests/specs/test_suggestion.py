"""Names that may have been meant are offered, the likeliest first, and only where one is near."""

import time

import pytest

from specs.suggestion import did_you_mean


@pytest.mark.parametrize(
    ("name", "most", "hint"),
    [
        ("authr", 1, "; did you mean author?"),
        ("finance-tfnz", 3, "; did you mean finance-tfns, finance-fiqa?"),
        ("finance-tfnz", 1, "; did you mean finance-tfns?"),
        ("%%%", 3, ""),
    ],
)
def test_near_names_are_offered(name: str, most: int, hint: str) -> None:
    assert did_you_mean(name, ["finance-fiqa", "author", "finance-tfns"], most) == hint


def market(size: int) -> list[str]:
    subjects = ("finance", "healthcare", "mathematics", "law", "science", "code", "education", "weather")
    tasks = ("sentiment", "headline", "summary", "entities", "intent", "contract", "solution", "abstract", "triage")
    return [f"{subjects[n % 8]}-{tasks[n % 9]}_{tasks[n * 7 % 9]}{n}" for n in range(size)]


@pytest.mark.parametrize(("position", "written"), [(0, ""), (3, "x"), (9, ""), (20, "zz"), (12, "-")])
def test_the_name_that_was_meant_is_found_among_ten_thousand(position: int, written: str) -> None:
    names = market(10_000)
    meant = names[4711]
    assert meant in did_you_mean(meant[:position] + written + meant[position + 1 :], names)


@pytest.mark.parametrize("name", ["finance-sentment_topic", "gpt-4o", "", "\n", "x" * 100, "a" * 1_000_000])
def test_ten_thousand_names_take_little_longer_than_few(name: str) -> None:
    def seconds(names: list[str]) -> float:
        begin = time.process_time()
        did_you_mean(name, names)
        return time.process_time() - begin

    few, many = market(24), market(10_000)
    assert min(seconds(many) for _ in range(5)) < 10 * min(seconds(few) for _ in range(5)) + 0.01


def test_a_name_that_is_longer_than_any_is_not_compared() -> None:
    assert did_you_mean("author" * 100, ["author" * 100]) == ""
