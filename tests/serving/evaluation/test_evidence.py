"""Evidence on a canary: which records count, blocks of scores in time, and no request twice."""

from typing import Any

import pytest

from serving.evaluation.betting import Value
from serving.evaluation.evidence import Answer, Compared, Evidence, answers_in, blocks, score_of

VERSION = "finance/x@canary@abc"


def row(number: int, *, canary: bool = False, **changes: Any) -> dict[str, Any]:
    return {
        "tenant": "alice",
        "id": f"r{number}",
        "time": float(number),
        "learnware": "finance/x@canary" if canary else "finance/x",
        "version": VERSION if canary else "finance/x@old",
        "reason": "matched:canary" if canary else "matched",
        "status": 200,
        "chosen": "finance/x",
        "choice_reason": "matched:canary" if canary else "matched",
        "feedback": [],
        **changes,
    }


def read(*rows: dict[str, Any]) -> list[Answer]:
    return answers_in(rows, "finance/x", "finance/x@canary", VERSION)


def test_answers_of_both_are_told_apart() -> None:
    scored = [{"tenant": "bob", "label": "right"}, {"tenant": "eve", "answer": "4"}]
    assert read(row(1), row(2, canary=True, feedback=scored)) == [
        Answer(("alice", "r1"), 1.0, False, False),
        Answer(("alice", "r2"), 2.0, True, False, 1.0, "bob"),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "named", "choice_reason": None},
        {"chosen": "health/y", "reason": "matched:next"},
        {"status": None},
        {"status": 429},
        {"reason": "matched:resident", "choice_reason": "matched:resident"},
        {"reason": "session", "choice_reason": "session"},
        {"canary": True, "version": "finance/x@canary@another"},
    ],
)
def test_what_tells_nothing_of_the_two_is_left_out(changes: dict[str, Any]) -> None:
    assert [one.request[1] for one in read(row(1, canary=True), row(2), row(3, **changes))] == ["r1", "r2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 500},
        {"status": 503},
        {"reason": "base:not-loaded", "learnware": "SmolLM", "version": None},
        {"reason": "matched:canary:next", "learnware": "finance/x", "version": "finance/x@old"},
    ],
)
def test_failures_of_the_canary_are_its_own(changes: dict[str, Any]) -> None:
    scored = [{"tenant": "a", "score": 1.0}]
    (found,) = read(row(1, canary=True, feedback=scored, **changes))
    assert found == Answer(("alice", "r1"), 1.0, True, failed=True)


def test_a_failure_to_load_the_learnware_itself_is_its_own() -> None:
    for changes in (
        {"reason": "base:not-loaded", "learnware": "SmolLM", "version": None},
        {"reason": "matched:next", "learnware": "finance/y", "version": "finance/y@old"},
    ):
        found = read(row(1, canary=True), row(2, **changes))
        assert [(one.canary, one.failed) for one in found] == [(True, False), (False, True)]


def test_without_the_routers_half_the_reason_tells() -> None:
    half = {"chosen": None, "choice_reason": None}
    assert [one.canary for one in read(row(1, canary=True, chosen=None, choice_reason=None), row(2, **half))] == [
        False,
        True,
    ][::-1]


def test_blocks_end_when_both_sides_are_there() -> None:
    scores = [
        ("a", 1.0, False, 1.0),
        ("a", 2.0, False, 0.0),
        ("b", 2.5, True, 1.0),  # of another source: it waits for its own
        ("a", 3.0, True, 0.0),
        ("a", 5.0, True, 1.0),
        ("a", 4.0, True, 0.0),
        ("a", 6.0, False, 0.0),
        ("a", 7.0, False, 1.0),  # nothing to compare with yet
    ]
    assert blocks(scores) == [Value("a", -0.5), Value("a", 0.5)]


def test_a_change_of_the_times_is_no_difference() -> None:
    """All scores fall; the canary came with the worse ones more often. Means of all would say that it is worse."""
    scores = [("a", float(t), t % 10 == 0, 1.0) for t in range(50)]
    scores += [("a", float(t), t % 2 == 0, 0.0) for t in range(50, 100)]
    found = blocks(scores)
    assert len(found) == 30
    assert abs(sum(one.value for one in found)) <= 1  # a block over the change itself


def test_a_request_counts_once_by_the_best_that_is_known() -> None:
    answers = (
        Answer(("t", "1"), 1.0, True, False, 0.0, "t"),
        Answer(("t", "2"), 2.0, False, False, 1.0, "t"),
        Answer(("t", "3"), 3.0, True, False, 0.0, "t"),
        Answer(("t", "4"), 4.0, True, False),
    )
    compared = (
        Compared(("t", "1"), 1.0, -1.0, unjudged=False),  # the right answer counts, neither feedback nor judge
        Compared(("t", "3"), None, 1.0, unjudged=False),  # feedback counts
        Compared(("t", "4"), None, 1.0, unjudged=False),
    )
    found = Evidence(answers, compared).values(0.2)
    assert found == [Value("t", 1.0), Value("t", 1.0), Value("t", -1.0)]


def test_a_judge_that_often_fails_is_not_believed() -> None:
    settled = [Compared(("t", str(n)), None, 0.0, unjudged=False) for n in range(80)]
    failed = [Compared(("t", f"f{n}"), None, None, unjudged=True) for n in range(21)]
    assert len(Evidence((), (*settled, *failed[:20])).values(0.2)) == 80
    assert Evidence((), (*settled, *failed)).values(0.2) == []


def test_failures_are_differences_of_shares() -> None:
    answers = [Answer(("t", str(n)), float(n), n % 4 == 3, failed=n == 7) for n in range(8)]
    assert Evidence(tuple(answers), ()).failures == [Value("t", 0.0), Value("t", 1.0)]


def test_the_last_score_counts() -> None:
    assert score_of([{"score": 0.25, "tenant": "a"}, {"label": "wrong", "tenant": "b"}, {"answer": "x"}]) == (0.0, "b")
    assert score_of([]) == (None, "")
