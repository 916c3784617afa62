"""The market's journal: an SQLite database of every learnware that was ever submitted, and of its state.

It is the truth; the published catalogue is made from it. The database has a rollback journal, not a write-ahead log,
which would need shared memory beside it and so one machine.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from specs.card import Card
from specs.errors import MarketBusy

JOURNAL_FILE = "market.sqlite"
"""File name of the database in the market's folder."""
_FORMAT = 2
"""Version of the schema, kept in SQLite's `user_version`. Format 1 had no notes."""

_SCHEMA = """
CREATE TABLE learnwares (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    sha256 TEXT,
    state TEXT NOT NULL CHECK (state IN ('active', 'replaced', 'removed', 'quarantined')),
    reason TEXT,
    changed TEXT NOT NULL,
    card TEXT,
    stamp TEXT,
    notes TEXT,
    CHECK (state != 'active' OR (sha256 IS NOT NULL AND card IS NOT NULL))
);
CREATE UNIQUE INDEX one_active ON learnwares (id) WHERE state = 'active';
CREATE INDEX by_id ON learnwares (id);
CREATE INDEX by_sha256 ON learnwares (sha256);
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO facts VALUES ('sequence', 0), ('seeded', 0);
"""
_COLUMNS = "number, id, version, sha256, state, reason, changed, card, stamp, notes"


class State(StrEnum):
    """The states of a submission; at most one of an id is active."""

    ACTIVE = "active"
    REPLACED = "replaced"
    REMOVED = "removed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Record:
    """One submission. `sha256` and `card` are None where it could not be taken in or read; `reason` says why it is in
    quarantine; `stamp` is its object's (`specs.market.objects.stamp`); `notes` are sentences on it that refuse nothing,
    such as those of its trial. The card is parsed when it is asked for: most operations go over all records and need
    none."""

    number: int
    id: str
    version: int
    sha256: str | None
    state: State
    reason: str | None
    changed: datetime
    card_text: str | None
    stamp: str | None
    notes: tuple[str, ...] = ()

    @cached_property
    def card(self) -> Card | None:
        """The card of the submission, or None."""
        return None if self.card_text is None else Card.model_validate_json(self.card_text)


def describe(record: Record) -> dict[str, Any]:
    """Returns a record as it is shown to clients: JSON values, without the place of its files."""
    return {
        "id": record.id,
        "object": "learnware",
        "version": record.version,
        "state": str(record.state),
        "reason": record.reason,
        "notes": list(record.notes),
        "changed": record.changed.isoformat(timespec="seconds"),
        "sha256": record.sha256,
        "card": None if record.card is None else record.card.model_dump(mode="json", exclude_none=True),
    }


class Journal:
    """An open database. `reading` and `writing` make one for a single operation."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def active(self, learnware_id: str) -> Record | None:
        """Returns the active record of this id, or None."""
        return next(iter(self._select("WHERE id = ? AND state = ?", learnware_id, State.ACTIVE)), None)

    def latest(self, learnware_id: str) -> Record | None:
        """Returns the latest record of this id, whatever its state, or None."""
        return next(iter(self._select("WHERE id = ? ORDER BY number DESC LIMIT 1", learnware_id)), None)

    def records(self, state: State | None = None) -> list[Record]:
        """Returns the records in one state, or all of them, sorted by id and then by number."""
        if state is None:
            return self._select("ORDER BY id, number")
        return self._select("WHERE state = ? ORDER BY id, number", state)

    def served(self) -> list[tuple[str, int, str]]:
        """Returns id, version and SHA-256 of the active learnwares, sorted by id: the content of a catalogue, which
        each change needs, without the rest of 10,000 records."""
        return self._connection.execute(
            "SELECT id, version, sha256 FROM learnwares WHERE state = ? ORDER BY id", (State.ACTIVE,)
        ).fetchall()

    def add(
        self,
        learnware_id: str,
        state: State,
        *,
        version: int = 0,
        sha256: str | None = None,
        reason: str | None = None,
        card: Card | None = None,
        stamp: str | None = None,
        notes: Sequence[str] = (),
    ) -> Record:
        """Adds a record and returns it."""
        text = None if card is None else card.model_dump_json(exclude_none=True)
        number = self._connection.execute(
            "INSERT INTO learnwares (id, version, sha256, state, reason, changed, card, stamp, notes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (learnware_id, version, sha256, state, reason, _now(), text, stamp, json.dumps(notes) if notes else None),
        ).lastrowid
        return self._select("WHERE number = ?", number)[0]

    def end(self, record: Record, state: State, reason: str | None = None) -> Record:
        """Gives an active record another state and returns it."""
        self._connection.execute(
            "UPDATE learnwares SET state = ?, reason = ?, changed = ? WHERE number = ?",
            (state, reason, _now(), record.number),
        )
        return self._select("WHERE number = ?", record.number)[0]

    def set_stamp(self, record: Record, stamp: str) -> None:
        """Keeps the stamp of a record's object."""
        self._connection.execute("UPDATE learnwares SET stamp = ? WHERE number = ?", (stamp, record.number))

    def fact(self, name: str) -> int:
        """Returns the number that the market keeps under this name."""
        value: int = self._connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0]
        return value

    def set_fact(self, name: str, value: int) -> None:
        """Keeps a number under a name that exists."""
        self._connection.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))

    def damage(self) -> list[str]:
        """Returns the faults that SQLite finds in its own file."""
        rows = self._connection.execute("PRAGMA integrity_check").fetchall()
        return [row[0] for row in rows if row[0] != "ok"]

    def _select(self, rest: str, *values: Any) -> list[Record]:
        # `rest` is one of the constants above, never input
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM learnwares {rest}", values)  # noqa: S608
        return [_record(row) for row in rows]


def prepare(root: Path, timeout_s: float) -> None:
    """Makes the database if it is not there, and gives one of an older format what it lacks; whole or not at all."""
    with closing(_connect(root, timeout_s)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_FORMAT}; COMMIT;")
        elif version == 1:
            added = "ALTER TABLE learnwares ADD COLUMN notes TEXT;"
            connection.executescript(f"BEGIN IMMEDIATE; {added} PRAGMA user_version = {_FORMAT}; COMMIT;")


@contextmanager
def reading(root: Path, timeout_s: float) -> Iterator[Journal]:
    """Opens the journal to read. Raises MarketBusy when the database stays locked for `timeout_s` seconds."""
    with _as_busy(), closing(_connect(root, timeout_s)) as connection:
        yield Journal(connection)


@contextmanager
def writing(root: Path, timeout_s: float) -> Iterator[Journal]:
    """Opens the journal for one transaction, which is on the disk when the block ends and undone when it raises.

    Raises:
        MarketBusy: the database stays locked for `timeout_s` seconds.
    """
    with _as_busy(), closing(_connect(root, timeout_s)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield Journal(connection)
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _connect(root: Path, timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(root / JOURNAL_FILE, timeout=timeout_s, isolation_level=None)
    connection.execute("PRAGMA synchronous = EXTRA")  # also syncs the folder when the rollback journal goes
    return connection


@contextmanager
def _as_busy() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise MarketBusy(f"the market's database is locked by another process: {error}") from None
        raise


def _record(row: tuple[Any, ...]) -> Record:
    number, learnware_id, version, sha256, state, reason, changed, card, stamp, notes = row
    return Record(
        number,
        learnware_id,
        version,
        sha256,
        State(state),
        reason,
        datetime.fromisoformat(changed),
        card,
        stamp,
        tuple(json.loads(notes)) if notes else (),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
