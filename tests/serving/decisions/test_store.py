"""The store of decisions: halves joined, bounded by number and age, and no fault of the disk that a request notices."""

import base64
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.decisions.database import PAGE_BYTES, RETRY_S, Database
from serving.decisions.filters import Filters
from serving.decisions.store import MOST_FEEDBACK, DecisionStore
from specs.errors import DecisionsUnavailable, InvalidInput

VECTOR = base64.b64encode(b"\x01\x02\x03\x04").decode()


def replica_half(number: int, tenant: str = "alice", **changes: Any) -> dict[str, Any]:
    return {
        "id": f"request-{number}",
        "decision": f"d{number}",
        "time": 1000.0 + number,
        "tenant": tenant,
        "path": "/v1/chat/completions",
        "model": "auto",
        "learnware": "finance-tfns",
        "reason": "matched",
        "status": 200,
        **changes,
    }


def router_half(number: int, task: str = "finance-tfns", **vectors: Any) -> dict[str, Any]:
    choice = {"learnware": "finance-tfns", "tasks": [{"task": task, "probability": 0.9}], "ask": ["Which is it?"]}
    kept = {"encoder": "e", "vector": VECTOR, "form": None, **vectors}
    return {"decision": f"d{number}", "choice": choice, "vectors": kept}


class Clock:
    def __init__(self) -> None:
        self.now = 2000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(folder: Path, clock: Clock, max_records: int = 100, keep_days: float = 30, **options: Any) -> DecisionStore:
    return DecisionStore(folder / "decisions.sqlite", max_records, keep_days, clock=clock, **options)


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in found]


@pytest.mark.parametrize("router_first", [True, False])
def test_halves_are_joined_in_any_order(tmp_path: Path, clock: Clock, router_first: bool) -> None:
    store = opened(tmp_path, clock)
    halves = [router_half(1), replica_half(1)]
    for half in halves if router_first else halves[::-1]:
        assert store.add([half]) == 0
    record = store.get("alice", "request-1")
    assert record is not None
    assert record["choice"] == {k: v for k, v in router_half(1)["choice"].items() if k != "ask"}
    assert record["vectors"] == router_half(1)["vectors"]
    assert (record["model"], record["feedback"]) == ("auto", [])
    assert "text" not in record


def test_a_record_without_a_choice_has_none(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1, decision=None)])
    record = store.get(None, "request-1")
    assert record is not None
    assert (record["choice"], record["vectors"]) == (None, None)


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (Filters(), [4, 3, 2, 1]),
        (Filters(limit=2), [4, 3]),
        (Filters(before=1003.0), [2, 1]),
        (Filters(after=1003.0), [4]),
        (Filters(tenant="bob"), [3]),
        (Filters(learnware="other"), [2]),
        (Filters(reason="named"), [4]),
        (Filters(status=range(400, 500)), [3]),
        (Filters(status=range(200, 201), tenant="alice", before=1004.0), [2, 1]),
        (Filters(task="sums"), [2]),
        (Filters(id="request-1"), [1]),
        (Filters(id="request-1' OR '1'='1"), []),
    ],
)
def test_filters(tmp_path: Path, clock: Clock, filters: Filters, numbers: list[int]) -> None:
    store = opened(tmp_path, clock)
    store.add(
        [
            replica_half(1),
            replica_half(2, learnware="other"),
            replica_half(3, "bob", status=429),
            replica_half(4, reason="named"),
            router_half(1),
            router_half(2, task="sums"),
        ]
    )
    assert ids(store.find(filters)) == [f"request-{number}" for number in numbers]


def test_the_newest_request_of_an_id_counts_and_one_sent_twice_is_one(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1), router_half(1)])
    store.feedback("alice", "request-1", {"score": 1.0}, "alice")
    store.add([replica_half(1), replica_half(1, time=900.0, reason="older")])
    found = store.find(Filters())
    assert [(one["reason"], len(one["feedback"])) for one in found] == [("matched", 1)]
    store.add([replica_half(1, time=1500.0, reason="newer"), replica_half(1, "bob")])
    record = store.get("alice", "request-1")
    assert record is not None
    assert (record["reason"], record["feedback"]) == ("newer", [])
    assert len(store.find(Filters())) == 2


def test_the_oldest_go_first_with_their_choices_and_feedback(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, max_records=3)
    for number in range(1, 6):
        store.add([replica_half(number), router_half(number)])
        store.feedback("alice", f"request-{number}", {"score": 0.5}, "alice")
    assert ids(store.find(Filters())) == ["request-5", "request-4", "request-3"]
    assert [row.record["id"] for row in store.feedback_rows()] == ["request-3", "request-4", "request-5"]
    store.close()
    with sqlite3.connect(tmp_path / "decisions.sqlite") as db:
        assert db.execute("SELECT count(*) FROM choices").fetchone() == (3,)
    db.close()


def test_routers_halves_without_a_request_are_bounded_too(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, max_records=3)
    store.add([router_half(number) for number in range(20)])
    store.close()
    with sqlite3.connect(tmp_path / "decisions.sqlite") as db:
        assert [row[0] for row in db.execute("SELECT decision FROM choices")] == [f"d{n}" for n in range(14, 20)]
    db.close()


def test_records_and_texts_go_with_age(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, keep_days=2, prompts=True, prompt_keep_days=1)
    text = {"prompt": "Is it up?", "answer": "up"}
    store.add([replica_half(1, time=clock.now, text=text), router_half(1)])
    record = store.get("alice", "request-1")
    assert record is not None
    assert (record["text"], record["choice"]["ask"]) == (text, ["Which is it?"])
    clock.now += 1.01 * 86_400
    store.add([])
    assert not any(b"Is it up?" in path.read_bytes() for path in tmp_path.iterdir())  # nor in SQLite's journal
    record = store.get("alice", "request-1")
    assert record is not None
    assert "text" not in record
    assert "ask" not in record["choice"]
    assert record["vectors"] is not None
    clock.now += 86_400
    store.add([])
    assert store.find(Filters()) == []


def test_what_is_switched_off_is_erased_from_the_file(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, prompts=True)
    vector = base64.b64encode(b"a vector that is to go").decode()
    text = {"prompt": "a prompt that is to go", "answer": "x"}
    store.add([replica_half(1, text=text), router_half(1, vector=vector)])
    store.close()
    store = opened(tmp_path, clock, vectors=False)
    record = store.get("alice", "request-1")
    assert record is not None
    assert record["vectors"] is None
    assert "text" not in record
    assert record["choice"]["tasks"]
    store.add([replica_half(2, text=text), router_half(2, vector=vector)])
    store.close()
    everything = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"finance-tfns" in everything
    assert b"that is to go" not in everything


def test_feedback_is_bounded_read_on_and_of_nobody_elses(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1), replica_half(2)])
    assert store.feedback("bob", "request-1", {"score": 0.0}, "bob") is None
    record = store.feedback("alice", "request-1", {"label": "wrong", "answer": "up"}, "alice")
    assert record is not None
    assert record["feedback"] == [{"time": 2000.0, "tenant": "alice", "label": "wrong", "answer": "up"}]
    assert store.feedback(None, "request-2", {"score": 1.0}, "admin") is not None
    rows = list(store.feedback_rows())
    assert [(row.record["id"], row.piece["seq"], row.piece["tenant"]) for row in rows] == [
        ("request-1", 1, "alice"),
        ("request-2", 2, "admin"),
    ]
    assert [row.piece["seq"] for row in store.feedback_rows(after=1)] == [2]
    for _ in range(MOST_FEEDBACK - 1):
        store.feedback("alice", "request-1", {"score": 1.0}, "alice")
    with pytest.raises(InvalidInput, match="as many as are kept"):
        store.feedback("alice", "request-1", {"score": 1.0}, "alice")


def test_feedback_is_read_over_many_pages(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.decisions.store.PAGE", 3)
    store = opened(tmp_path, clock)
    store.add([replica_half(number) for number in range(7)])
    for number in range(7):
        store.feedback(None, f"request-{number}", {"score": number / 10}, "admin")
    assert [row.piece["score"] for row in store.feedback_rows()] == [number / 10 for number in range(7)]
    assert [len(one["feedback"]) for one in store.find(Filters())] == 7 * [1]


def test_a_broken_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "decisions.sqlite"
    path.write_bytes(b"this is no database" * 100)
    store = opened(tmp_path, clock)
    assert store.add([replica_half(1)]) == 0
    assert ids(store.find(Filters())) == ["request-1"]
    aside = [one for one in tmp_path.iterdir() if "broken" in one.name]
    assert [one.read_bytes()[:19] for one in aside] == [b"this is no database"]


def test_a_file_that_breaks_while_it_is_open_costs_no_later_record(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(number) for number in range(50)])
    store.close()
    path = tmp_path / "decisions.sqlite"
    content = bytearray(path.read_bytes())
    content[PAGE_BYTES:] = os.urandom(len(content) - PAGE_BYTES)  # all pages but the first
    path.write_bytes(content)
    store = opened(tmp_path, clock)
    assert store.add([replica_half(number) for number in range(50, 53)]) == 0
    assert ids(store.find(Filters())) == ["request-52", "request-51", "request-50"]
    assert any("broken" in one.name for one in tmp_path.iterdir())


def test_a_newer_format_is_kept_aside(tmp_path: Path, clock: Clock) -> None:
    with sqlite3.connect(tmp_path / "decisions.sqlite") as db:
        db.execute("PRAGMA user_version=7")
    db.close()
    store = opened(tmp_path, clock)
    assert store.add([replica_half(1)]) == 0
    assert len(store.find(Filters())) == 1
    assert any("broken" in one.name for one in tmp_path.iterdir())


def test_a_full_disk_loses_records_counts_them_and_recovers(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1)])
    db = store._database._connection
    assert db is not None
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count={pages}")
    many = [replica_half(number, tenant=f"t{number}" + 2000 * "x") for number in range(2, 40)]
    assert store.add(many) == len(many)
    assert store.lost == len(many)
    assert "full" in str(store.fault)
    assert ids(store.find(Filters())) == ["request-1"]  # what is there can be read
    db.execute("PRAGMA max_page_count=100000")
    assert store.add(many) == 0
    assert store.fault is None
    assert len(store.find(Filters())) == len(many) + 1


def test_a_place_that_cannot_be_written_is_said_and_tried_again(tmp_path: Path, clock: Clock) -> None:
    place = tmp_path / "file"
    place.write_text("in the folder's place")
    store = opened(place, clock)
    assert store.add([replica_half(1)]) == 1
    with pytest.raises(DecisionsUnavailable, match="cannot be used now"):
        store.find(Filters())
    place.unlink()
    assert store.add([replica_half(1)]) == 1  # not tried at each request
    clock.now += RETRY_S
    assert store.add([replica_half(1)]) == 0


def test_halves_that_are_none_are_counted_and_cost_no_others(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    assert store.add([{"nothing": 1}, replica_half(1)]) == 1
    assert ids(store.find(Filters())) == ["request-1"]
    assert store.add([{"id": "request-2"}]) == 1
    assert store.lost == 2


def test_the_file_is_its_owners_alone(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path / "made", clock)
    store.add([replica_half(1)])
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()} == {0o600}


def test_threads_may_share_it(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, max_records=1000)
    batches = [[replica_half(number) for number in range(start, start + 25)] for start in range(0, 200, 25)]
    threads = [threading.Thread(target=store.add, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.find(Filters(limit=1000))) == 200
    assert store.lost == 0


def test_a_look_waits_for_no_writer_and_ends(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path, clock, max_records=5000)
    store.add([replica_half(number) for number in range(4000)])
    with store._lock:  # as while something is written
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(store.find(Filters(limit=1))))
        thread.start()
        thread.join(10)
    assert ids(found) == ["request-3999"]
    monkeypatch.setattr("serving.decisions.database.LOOK_S", 0.0)
    with pytest.raises(DecisionsUnavailable, match="took too long"):
        store.find(Filters(task="none"))


def test_the_sentences_of_an_ask_are_redacted_as_the_prompt_is(tmp_path: Path, clock: Clock) -> None:
    store, half = opened(tmp_path, clock, prompts=True), router_half(1)
    half["choice"]["ask"] = ["Is jane@mail.example.com right?", "Or sk-abcDEF1234567890abcd?"]
    store.add([half, replica_half(1)])
    record = store.get("alice", "request-1")
    assert record is not None
    assert record["choice"]["ask"] == ["Is [e-mail] right?", "Or [key]?"]
    assert not any(b"jane@mail" in one.read_bytes() for one in tmp_path.iterdir())


@pytest.mark.parametrize(("table", "column"), [("records", "text"), ("choices", "ask")])
@pytest.mark.parametrize("old", ["", " AND time < 1000.0"])
def test_words_to_erase_are_found_by_an_index_of_them_alone(
    tmp_path: Path, clock: Clock, table: str, column: str, old: str
) -> None:
    opened(tmp_path, clock).close()
    db = sqlite3.connect(tmp_path / "decisions.sqlite")
    erase = f"EXPLAIN QUERY PLAN UPDATE {table} SET {column} = NULL WHERE {column} IS NOT NULL{old}"
    (step,) = [row[3] for row in db.execute(erase)]
    db.close()
    assert f"USING INDEX {table}_{column}" in step


def test_all_queries_of_a_look_see_one_state(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    store.add([replica_half(1)])
    counted = "SELECT count(*) FROM records"

    def read(db: sqlite3.Connection) -> tuple[int, int]:
        (before,) = db.execute(counted).fetchone()
        assert store.add([replica_half(2)]) == 0
        return before, db.execute(counted).fetchone()[0]

    look = Database(tmp_path / "decisions.sqlite").look
    assert look(read) == (1, 1)
    assert look(lambda db: db.execute(counted).fetchone()[0]) == 2
