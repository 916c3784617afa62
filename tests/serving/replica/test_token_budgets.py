"""Tokens a minute: what is charged, what is owed, and what the client hears."""

import pytest

from serving.replica import token_budgets
from serving.replica.token_budgets import TokenBudgets, duration
from specs.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budgets(clock) -> TokenBudgets:
    return TokenBudgets(clock)


def headers(budgets: TokenBudgets, limit: int = 600) -> list[str]:
    return [value.decode() for _, value in budgets.headers("a", limit)]


def test_a_minutes_worth_is_there_and_comes_back_in_a_minute(budgets, clock):
    assert headers(budgets) == ["600", "600", "0ms"]
    assert budgets.charge("a", 600, 400) == 400
    assert headers(budgets) == ["600", "200", "40s"]
    with pytest.raises(RateLimited, match=r"600 tokens a minute .* 200 are left") as refused:
        budgets.charge("a", 600, 300)
    assert refused.value.retry_after_s == 10
    budgets.charge("b", 600, 600)
    clock.now += 10.0
    assert budgets.charge("a", 600, 300) == 300
    assert headers(budgets) == ["600", "0", "1m0s"]


def test_what_was_not_taken_is_given_back_and_what_was_taken_beyond_is_owed(budgets, clock):
    charged = budgets.charge("a", 600, 500)
    budgets.correct("a", 600, charged, 20)
    assert headers(budgets) == ["600", "580", "2s"]
    charged = budgets.charge("a", 600, 100)
    budgets.correct("a", 600, charged, 1180)
    assert headers(budgets) == ["600", "0", "2m0s"]
    with pytest.raises(RateLimited) as refused:
        budgets.charge("a", 600, 1)
    assert refused.value.retry_after_s == 61
    clock.now += 61.0
    budgets.charge("a", 600, 1)


def test_a_request_for_more_than_a_minutes_worth_can_be_admitted(budgets):
    assert budgets.charge("a", 600, 10_000) == 600
    with pytest.raises(RateLimited):
        budgets.charge("a", 600, 10_000)


def test_more_than_the_limit_is_never_given_back(budgets):
    charged = budgets.charge("a", 600, 100)
    budgets.correct("a", 600, charged, 0)
    budgets.correct("a", 600, 500, 0)
    assert headers(budgets)[1] == "600"


def test_buckets_that_are_full_again_are_forgotten_and_debts_are_not(budgets, clock, monkeypatch):
    monkeypatch.setattr(token_budgets, "MOST_BUCKETS", 3)
    budgets.correct("a", 600, 0, 6000)
    for number in range(3):
        budgets.charge(str(number), 600, 1)
    clock.now += 60.0
    budgets.charge("last", 600, 1)
    assert budgets.headers("0", 600)[1][1] == b"600"
    assert len(budgets._buckets) == 2
    with pytest.raises(RateLimited):
        budgets.charge("a", 600, 1)


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0, "0ms"), (0.0171, "18ms"), (1.0, "1s"), (8.64, "8.64s"), (360.0, "6m0s"), (72.5, "1m12.5s")],
)
def test_durations_are_written_as_openai_writes_them(seconds, written):
    assert duration(seconds) == written
