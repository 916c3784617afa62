"""The tables of compared answers and of canaries, in the file of the log of decisions.

A comparison belongs to a request, by its tenant and id: a newer one of the same id takes its place, one that was sent
twice is kept once. It is bounded as records are, by number and age, and its texts are kept only where prompts are.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from serving.decisions.open_record import TEXT_CHARS
from serving.decisions.redaction import Redactor

WAITING, JUDGED, FAILED, UNASKED = "waiting", "judged", "failed", "unasked"
"""States of a comparison: the judge is to be asked, has said something, or has failed; there is no judge."""
MOST_ANSWERS = 20_000
"""The most records, the newest ones, that are looked at for one canary."""
MOST_CANARIES = 200
"""The most canaries that are kept, the newest ones."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS comparisons(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    time REAL NOT NULL,
    kind TEXT NOT NULL,
    first TEXT NOT NULL,
    first_version TEXT,
    second TEXT NOT NULL,
    second_version TEXT,
    first_tokens REAL,
    second_tokens REAL,
    first_seconds REAL,
    second_seconds REAL,
    state TEXT NOT NULL,
    judge REAL,
    reference REAL,
    text TEXT,
    UNIQUE(tenant, id)
);
CREATE INDEX IF NOT EXISTS comparisons_time ON comparisons(time);
CREATE INDEX IF NOT EXISTS comparisons_second ON comparisons(second_version);
CREATE INDEX IF NOT EXISTS comparisons_text ON comparisons(time) WHERE text IS NOT NULL;
CREATE TABLE IF NOT EXISTS canaries(
    learnware TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    since REAL NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY(learnware, sha256, since)
);
"""
_COLUMNS = (
    "tenant",
    "id",
    "time",
    "kind",
    "first",
    "first_version",
    "second",
    "second_version",
    "first_tokens",
    "second_tokens",
    "first_seconds",
    "second_seconds",
    "state",
    "judge",
    "reference",
)
_GROUP = ("first", "first_version", "second", "second_version", "kind")
_MARKS = ", ".join("?" * (len(_COLUMNS) + 1))
_INSERT = f"INSERT INTO comparisons({', '.join(_COLUMNS)}, text) VALUES ({_MARKS})"  # noqa: S608 (constants)

Work = Callable[[sqlite3.Connection], Any]


class Connected(Protocol):
    """The access to the file that the store of decisions has."""

    def look(self, work: Work) -> Any:
        """Reads. Raises DecisionsUnavailable where the file cannot be used now."""

    def change(self, work: Work, otherwise: Any) -> Any:
        """Runs a transaction; returns `otherwise` where the file cannot be used now."""


class Pair(NamedTuple):
    """The verdicts of one source on two models."""

    first: str
    first_version: str | None
    second: str
    second_version: str | None
    kind: str
    source: str
    wins: int
    ties: int
    losses: int
    tokens: tuple[float | None, float | None]
    seconds: tuple[float | None, float | None]


class Counts(NamedTuple):
    """How many comparisons wait for the judge and how many it failed on, and the time of the oldest one."""

    waiting: int
    failed: int
    since: float | None


class Comparisons:
    """The comparisons and canaries of one store. As safe to use as that."""

    def __init__(self, store: Connected, max_rows: int, redactor: Redactor | None) -> None:
        """`redactor` redacts texts; None: none are kept."""
        self._store, self._max_rows, self._redactor = store, max_rows, redactor

    def add(self, row: Mapping[str, Any], text: Mapping[str, Any] | None) -> int | None:
        """Adds a comparison and returns its number, None where it is there already or the file cannot be used.

        Args:
            row: values of all columns but the text.
            text: prompt and both answers.
        """
        kept = None if text is None or self._redactor is None else json.dumps(_redacted(text, self._redactor))

        def write(db: sqlite3.Connection) -> int | None:
            key = (row["tenant"], row["id"])
            found = db.execute("SELECT seq, time FROM comparisons WHERE tenant = ? AND id = ?", key).fetchone()
            if found is not None:
                if found["time"] >= row["time"]:
                    return None
                db.execute("DELETE FROM comparisons WHERE seq = ?", (found["seq"],))
            added = db.execute(_INSERT, (*(row[name] for name in _COLUMNS), kept)).lastrowid
            assert added is not None
            # numbers only grow: no row has to be counted
            db.execute("DELETE FROM comparisons WHERE seq <= ?", (added - self._max_rows,))
            return added

        found: int | None = self._store.change(write, None)
        return found

    def judged(self, seq: int, state: str, verdict: float | None) -> None:
        """Notes how the judge ended on a comparison."""
        self._store.change(
            lambda db: db.execute("UPDATE comparisons SET state = ?, judge = ? WHERE seq = ?", (state, verdict, seq)), 0
        )

    def referenced(self, tenant: str, request_id: str, verdict: float) -> None:
        """Notes which of two answers is nearer to the right one."""
        query = "UPDATE comparisons SET reference = ? WHERE tenant = ? AND id = ?"
        self._store.change(lambda db: db.execute(query, (verdict, tenant, request_id)), 0)

    def give_up_waiting(self) -> None:
        """Notes that what waited for the judge is lost, as it is when its process ends."""
        self._store.change(
            lambda db: db.execute("UPDATE comparisons SET state = ? WHERE state = ?", (FAILED, WAITING)), 0
        )

    def texts(self, tenant: str, request_id: str) -> dict[str, Any] | None:
        """Returns the kept texts of a comparison, redacted; None where there are none."""
        query = "SELECT text FROM comparisons WHERE tenant = ? AND id = ? AND text IS NOT NULL"
        row = self._store.look(lambda db: db.execute(query, (tenant, request_id)).fetchone())
        return None if row is None else json.loads(row["text"])

    def right_answer(self, tenant: str, request_id: str) -> str | None:
        """Returns the right answer that feedback gave to a request last; None where there is none."""
        query = (
            "SELECT f.body FROM feedback f JOIN records r ON r.seq = f.record "
            "WHERE r.tenant = ? AND r.id = ? ORDER BY f.seq DESC"
        )
        rows = self._store.look(lambda db: db.execute(query, (tenant, request_id)).fetchall())
        return next((str(answer) for row in rows if (answer := json.loads(row["body"]).get("answer"))), None)

    def pairs(self, source: str, tenant: str | None, learnware: str | None, after: float | None) -> list[Pair]:
        """Returns the verdicts of `judge` or `reference` by pair of models, of one tenant's or (None) all requests."""
        column = {"judge": "judge", "reference": "reference"}[source]
        where, values = _where(tenant, learnware, after)
        group = ", ".join(_GROUP)
        query = (
            f"SELECT {group}, sum({column} > 0) AS wins, sum({column} = 0) AS ties, sum({column} < 0) AS losses, "  # noqa: S608
            "avg(first_tokens) AS t1, avg(second_tokens) AS t2, avg(first_seconds) AS s1, avg(second_seconds) AS s2 "
            f"FROM comparisons WHERE {column} IS NOT NULL AND {where} GROUP BY {group} ORDER BY count(*) DESC, {group}"
        )
        return [
            Pair(
                **{name: row[name] for name in (*_GROUP, "wins", "ties", "losses")},
                source=source,
                tokens=(row["t1"], row["t2"]),
                seconds=(row["s1"], row["s2"]),
            )
            for row in self._store.look(lambda db: db.execute(query, values).fetchall())
        ]

    def counts(self, tenant: str | None, learnware: str | None, after: float | None) -> Counts:
        """Returns how many comparisons wait, and how many got no verdict."""
        where, values = _where(tenant, learnware, after)
        query = (
            "SELECT coalesce(sum(state = ?), 0) AS waiting, coalesce(sum(state = ?), 0) AS failed, min(time) AS since "  # noqa: S608
            f"FROM comparisons WHERE {where}"
        )
        return Counts(*self._store.look(lambda db: db.execute(query, (WAITING, FAILED, *values)).fetchone()))

    def of_canary(self, version: str) -> list[dict[str, Any]]:
        """Returns the comparisons of the canary with this engine name: tenant, id, reference, judge and state."""
        query = (
            "SELECT tenant, id, reference, judge, state FROM comparisons WHERE kind = 'canary' AND second_version = ?"
        )
        return [dict(row) for row in self._store.look(lambda db: db.execute(query, (version,)).fetchall())]

    def answers(self, models: Sequence[str], lost: Sequence[str], since: float) -> list[dict[str, Any]]:
        """Returns what records since a time say of the answers of these models, and of requests whose reason is like
        one of `lost` (SQL's LIKE): tenant, id, time, learnware, version, reason, status, of the choice `chosen` and
        `choice_reason`, and the feedback's pieces. The newest `MOST_ANSWERS`."""
        marks, like = ", ".join("?" * len(models)), " OR r.reason LIKE ?" * len(lost)
        query = (
            "SELECT r.seq, r.tenant, r.id, r.time, r.learnware, json_extract(r.body, '$.version') AS version, "  # noqa: S608
            "r.reason, r.status, json_extract(c.body, '$.learnware') AS chosen, "
            "json_extract(c.body, '$.reason') AS choice_reason "
            "FROM records r LEFT JOIN choices c ON c.decision = r.decision "
            f"WHERE r.time >= ? AND (r.learnware IN ({marks}){like}) ORDER BY r.time DESC LIMIT ?"
        )
        pieces_query = (
            "SELECT f.record, f.tenant, f.body FROM feedback f JOIN records r ON r.seq = f.record "  # noqa: S608
            f"WHERE r.time >= ? AND r.learnware IN ({marks}) ORDER BY f.seq"
        )

        def read(db: sqlite3.Connection) -> list[dict[str, Any]]:
            rows = db.execute(query, (since, *models, *lost, MOST_ANSWERS)).fetchall()
            found = {row["seq"]: {**dict(row), "feedback": []} for row in rows}
            for piece in db.execute(pieces_query, (since, *models)):
                if piece["record"] in found:
                    body = {"tenant": piece["tenant"], **json.loads(piece["body"])}
                    found[piece["record"]]["feedback"].append(body)
            return list(found.values())

        answers: list[dict[str, Any]] = self._store.look(read)
        return answers

    def note_canary(self, learnware: str, sha256: str, since: float, state: str, body: Mapping[str, Any]) -> None:
        """Keeps what is known of a canary, in the place of what was known before."""

        def write(db: sqlite3.Connection) -> None:
            values = (learnware, sha256, since, state, json.dumps(dict(body)))
            db.execute("INSERT OR REPLACE INTO canaries VALUES (?, ?, ?, ?, ?)", values)
            oldest = "SELECT rowid FROM canaries ORDER BY since DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM canaries WHERE rowid IN ({oldest})", (MOST_CANARIES,))  # noqa: S608

        self._store.change(write, None)

    def canaries(self, learnware: str | None = None, state: str | None = None) -> list[dict[str, Any]]:
        """Returns what is known of canaries: learnware, sha256, since, state, and what `note_canary` was given; the
        newest first."""
        query = (
            "SELECT * FROM canaries WHERE (?1 IS NULL OR learnware = ?1) AND (?2 IS NULL OR state = ?2) "
            "ORDER BY since DESC"
        )
        rows = self._store.look(lambda db: db.execute(query, (learnware, state)).fetchall())
        return [
            {
                "learnware": row["learnware"],
                "sha256": row["sha256"],
                "since": row["since"],
                "state": row["state"],
                **json.loads(row["body"]),
            }
            for row in rows
        ]


def prune(db: sqlite3.Connection, oldest: float, oldest_text: float) -> None:
    """Removes the comparisons and canaries before a time, and texts before another one."""
    db.execute("DELETE FROM comparisons WHERE time < ?", (oldest,))
    db.execute("DELETE FROM canaries WHERE since < ? AND state != 'running'", (oldest,))
    db.execute("UPDATE comparisons SET text = NULL WHERE text IS NOT NULL AND time < ?", (oldest_text,))


def erase_texts(db: sqlite3.Connection) -> None:
    """Removes all texts."""
    db.execute("UPDATE comparisons SET text = NULL WHERE text IS NOT NULL")


def _where(tenant: str | None, learnware: str | None, after: float | None) -> tuple[str, tuple[Any, ...]]:
    conditions: list[tuple[str, tuple[Any, ...]]] = [("1", ())]
    if tenant is not None:
        conditions.append(("tenant = ?", (tenant,)))
    if learnware is not None:
        conditions.append(("? IN (first, second)", (learnware,)))
    if after is not None:
        conditions.append(("time > ?", (after,)))
    return " AND ".join(one for one, _ in conditions), tuple(value for _, some in conditions for value in some)


def _redacted(text: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    prompt, answers = str(text["prompt"]), [str(one) for one in text["answers"]]
    return {
        "prompt": redactor.redacted(prompt)[-TEXT_CHARS:],
        "answers": [redactor.redacted(one)[:TEXT_CHARS] for one in answers],
    }
