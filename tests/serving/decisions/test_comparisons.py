"""The tables of comparisons and canaries: bounded, erased with the prompts, and never larger than what may be seen."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from serving.decisions import comparisons as module
from serving.decisions.store import DecisionStore
from tests.serving.decisions.test_store import Clock, opened, replica_half, router_half

TEXT = {"prompt": "call +49 170 1234567", "answers": ["yes", "no"]}


@pytest.fixture
def clock() -> Clock:
    return Clock()


def row(number: int, tenant: str = "alice", **changes: Any) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "id": f"request-{number}",
        "time": 1000.0 + number,
        "kind": "shadow",
        "first": "finance/x",
        "first_version": "finance/x@a",
        "second": "base",
        "second_version": None,
        "first_tokens": 10,
        "second_tokens": None,
        "first_seconds": 0.5,
        "second_seconds": 1.0,
        "state": "judged",
        "judge": 1.0,
        "reference": None,
        **changes,
    }


def test_verdicts_are_summed_by_pair_and_source(tmp_path: Path, clock: Clock) -> None:
    table = opened(tmp_path, clock).comparisons
    for number, judge in enumerate([1.0, 1.0, 0.0, -1.0]):
        table.add(row(number, judge=judge, first_tokens=10 * number), None)
    table.add(row(9, "bob", second="health/y", judge=None, state="waiting"), None)
    table.referenced("alice", "request-2", -1.0)
    (pair,) = table.pairs("judge", None, None, None)
    assert (pair.wins, pair.ties, pair.losses, pair.tokens, pair.seconds) == (2, 1, 1, (15.0, None), (0.5, 1.0))
    assert [one[6:9] for one in table.pairs("reference", None, None, None)] == [(0, 0, 1)]
    assert table.counts(None, None, None) == (1, 0, 1000.0)
    assert table.counts("alice", None, None) == (0, 0, 1000.0)
    assert table.counts(None, "health/y", None) == (1, 0, 1009.0)
    assert table.pairs("judge", "bob", None, None) == table.pairs("judge", None, "health/y", None) == []
    assert table.pairs("judge", None, None, 1001.5)[0][6:9] == (0, 1, 1)
    table.give_up_waiting()
    assert table.counts(None, None, None)[:2] == (0, 1)


def test_the_oldest_go_first_and_the_too_old_in_any_case(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, max_records=3, keep_days=1)
    for number in range(5):
        store.comparisons.add(row(number, judge=float(number % 2)), None)
    assert sum(store.comparisons.pairs("judge", None, None, None)[0][6:9]) == 3
    store.comparisons.note_canary("finance/x", "a", 100.0, "rolled back", {})
    store.comparisons.note_canary("finance/y", "b", 100.0, "running", {})
    clock.now += 2 * 86_400
    store.add([])
    assert store.comparisons.counts(None, None, None).since is None
    assert [one["learnware"] for one in store.comparisons.canaries()] == ["finance/y"]


def test_texts_are_kept_with_prompts_alone_and_erased_with_them(tmp_path: Path, clock: Clock) -> None:
    silent = opened(tmp_path, clock)
    silent.comparisons.add(row(1), TEXT)
    assert silent.comparisons.texts("alice", "request-1") is None
    silent.close()
    store = opened(tmp_path, clock, prompts=True, prompt_keep_days=1)
    store.comparisons.add(row(2), TEXT)
    assert store.comparisons.texts("alice", "request-2") == {"prompt": "call [phone]", "answers": ["yes", "no"]}
    assert store.comparisons.texts("bob", "request-2") is None
    clock.now += 86_400 + 3600
    store.add([])
    assert store.comparisons.texts("alice", "request-2") is None
    store.comparisons.add(row(3, time=clock.now), TEXT)
    store.close()
    opened(tmp_path, clock).close()
    assert b"call" not in (tmp_path / "decisions.sqlite").read_bytes()
    assert opened(tmp_path, clock).comparisons.counts(None, None, None).since == 1001.0


def test_a_file_of_an_earlier_version_gets_the_tables(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1)])
    store.close()
    with sqlite3.connect(tmp_path / "decisions.sqlite") as file:
        file.executescript("DROP TABLE comparisons; DROP TABLE canaries")
    file.close()
    later = opened(tmp_path, clock)
    assert later.get("alice", "request-1") is not None
    assert later.comparisons.counts(None, None, None) == (0, 0, None)


def test_answers_of_a_canary_come_with_choice_and_feedback(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1, version="finance-tfns@a"), router_half(1), replica_half(2, learnware="other")])
    store.add([replica_half(3, learnware="base", reason="base:not-loaded"), replica_half(0, time=10.0)])
    store.add([replica_half(4, learnware="other", reason="matched:next")])
    store.feedback("alice", "request-1", {"label": "right"}, "bob")
    store.feedback("alice", "request-1", {"score": 0.5}, "alice")
    models, lost = ("finance-tfns", "finance-tfns@canary"), ("base:not-loaded", "%:next")
    after, last, first = store.comparisons.answers(models, lost, 500.0)
    assert after["id"] == "request-4"
    assert (first["id"], first["version"], first["chosen"]) == ("request-1", "finance-tfns@a", "finance-tfns")
    assert first["feedback"] == [{"tenant": "bob", "label": "right"}, {"tenant": "alice", "score": 0.5}]
    assert (last["id"], last["chosen"], last["feedback"]) == ("request-3", None, [])


def test_canaries_are_bounded_and_told_the_newest_first(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CANARIES", 2)
    table = opened(tmp_path, clock).comparisons
    for number in range(3):
        table.note_canary(f"finance/{number}", "a", 100.0 + number, "running", {"share": 0.1})
    table.note_canary("finance/2", "a", 102.0, "promoted", {"share": 0.2})
    assert [(one["learnware"], one["state"], one["share"]) for one in table.canaries()] == [
        ("finance/2", "promoted", 0.2),
        ("finance/1", "running", 0.1),
    ]
    assert [one["learnware"] for one in table.canaries(state="running")] == ["finance/1"]
    assert table.canaries("finance/0") == []


def test_a_file_that_cannot_be_used_costs_no_more_than_the_comparison(tmp_path: Path, clock: Clock) -> None:
    store = DecisionStore(tmp_path / "d" / "decisions.sqlite", 10, 1, clock=clock)
    store.close()
    (tmp_path / "d" / "decisions.sqlite").unlink()
    (tmp_path / "d" / "decisions.sqlite").mkdir()
    assert store.comparisons.add(row(1), None) is None
