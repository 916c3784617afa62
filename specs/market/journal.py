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

from specs.canary import canary_id, learnware_of
from specs.card import Card
from specs.errors import InvalidInput, MarketBusy

JOURNAL_FILE = "market.sqlite"
"""File name of the database in the market's folder."""
_LOST = (
    "share IS NULL AND origin IS NULL AND stamp IS NOT NULL "
    "AND number IN (SELECT max(number) FROM learnwares GROUP BY id)"
)
"""Condition of those in quarantine that were served, and whose files were harmed in the market; canaries apart, in
whose place their learnwares answer."""
_FORMAT = 3
"""Version of the schema, kept in SQLite's `user_version`."""

LONGEST_TEXT = 2000
"""Characters of a reason or a note that are shown."""

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
    unfit TEXT,
    origin TEXT,
    notes TEXT,
    share REAL,
    since TEXT,
    CHECK (state != 'active' OR (sha256 IS NOT NULL AND card IS NOT NULL))
);
CREATE UNIQUE INDEX one_active ON learnwares (id) WHERE state = 'active';
CREATE INDEX by_id ON learnwares (id);
CREATE INDEX by_sha256 ON learnwares (sha256);
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO facts VALUES ('sequence', 0), ('seeded', 0);
"""
_FROM_FORMAT_1 = """
ALTER TABLE learnwares ADD COLUMN unfit TEXT;
ALTER TABLE learnwares ADD COLUMN origin TEXT;
ALTER TABLE learnwares ADD COLUMN notes TEXT;
UPDATE learnwares SET origin = sha256;
"""
_FROM_FORMAT_2 = """
ALTER TABLE learnwares ADD COLUMN share REAL;
ALTER TABLE learnwares ADD COLUMN since TEXT;
"""
_CHANGES = {0: _SCHEMA, 1: _FROM_FORMAT_1 + _FROM_FORMAT_2, 2: _FROM_FORMAT_2}
"""Statements that bring a database of each earlier format to today's; 0 is that of a new file."""
_COLUMNS = "number, id, version, sha256, state, reason, changed, card, stamp, unfit, origin, notes, share, since"
_SERVED = "state = 'active' AND unfit IS NULL"
_IN_STATE = {"active": _SERVED, "unfit": "state = 'active' AND unfit IS NOT NULL"}
"""Conditions of the two states that one value of the column `state` stands for: so that an id is held by one learnware,
served or unfit."""


class State(StrEnum):
    """The states of a submission; at most one of an id is active or unfit. An unfit one is whole, but not for the base
    model or the engine of today's configuration; it is served again as soon as it fits."""

    ACTIVE = "active"
    UNFIT = "unfit"
    REPLACED = "replaced"
    REMOVED = "removed"
    QUARANTINED = "quarantined"


@dataclass(frozen=True)
class Record:
    """One submission. `sha256` and `card` are None where it could not be taken in or read; `reason` says why it is in
    quarantine or unfit; `stamp` is its object's (`specs.market.objects.stamp`), None for one that was never served;
    `origin` is the hash of the files as they were submitted, before anything was measured and added, None where those
    files are not to blame; `notes` are sentences on it that refuse nothing, such as those of its trial. The card is
    parsed when it is asked for: most operations go over all records and need none.

    The record of a canary (`specs.canary`) has the canary's id, the share of its learnware's requests that it gets, and
    the time since when; of one that is over, `state` says whether it was promoted (`REPLACED`: its version goes on as
    the learnware's) and `reason` says why."""

    number: int
    id: str
    version: int
    sha256: str | None
    state: State
    reason: str | None
    changed: datetime
    card_text: str | None
    stamp: str | None
    origin: str | None = None
    notes: tuple[str, ...] = ()
    share: float | None = None
    since: datetime | None = None

    @cached_property
    def card(self) -> Card | None:
        """The card of the submission, or None."""
        return None if self.card_text is None else Card.model_validate_json(self.card_text)


def describe(record: Record) -> dict[str, Any]:
    """Returns a record as it is shown to clients: JSON values, without the place of its files. That of a canary says
    whose it is, and its share."""
    canary = {} if record.share is None else {"canary_of": learnware_of(record.id), "share": record.share}
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
        **canary,
    }


class Journal:
    """An open database. `reading` and `writing` make one for a single operation."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def active(self, learnware_id: str) -> Record | None:
        """Returns the record that holds this id, active or unfit, or None."""
        return next(iter(self._select("WHERE id = ? AND state = ?", learnware_id, State.ACTIVE)), None)

    def latest(self, learnware_id: str) -> Record | None:
        """Returns the latest record of this id, whatever its state, or None."""
        return next(iter(self._select("WHERE id = ? ORDER BY number DESC LIMIT 1", learnware_id)), None)

    def records(self, state: State | None = None) -> list[Record]:
        """Returns the records in one state, or all of them, sorted by id and then by number."""
        if state is None:
            return self._select("ORDER BY id, number")
        if state in _IN_STATE:
            return self._select(f"WHERE {_IN_STATE[state]} ORDER BY id, number")
        return self._select("WHERE state = ? ORDER BY id, number", state)

    def holders(self) -> list[Record]:
        """Returns the records that hold an id, active or unfit, sorted by id."""
        return self._select("WHERE state = ? ORDER BY id", State.ACTIVE)

    def highest_version(self, learnware_id: str, *, canaries: bool = True) -> int | None:
        """Returns the highest version that was ever served under this id, with `canaries` also as its canary; None if
        none was."""
        row = self._connection.execute(
            "SELECT max(version) FROM learnwares WHERE id IN (?, ?) AND stamp IS NOT NULL",
            (learnware_id, canary_id(learnware_id) if canaries else None),
        ).fetchone()
        version: int | None = row[0]
        return version

    def held_back(self, sha256: str) -> Record | None:
        """Returns the latest record in quarantine whose files were submitted with this hash, or None."""
        rows = self._select("WHERE state = ? AND origin = ? ORDER BY number DESC LIMIT 1", State.QUARANTINED, sha256)
        return next(iter(rows), None)

    def in_quarantine(self, learnware_id: str) -> Record | None:
        """Returns the latest record of this id that is in quarantine, or None."""
        rows = self._select("WHERE id = ? AND state = ? ORDER BY number DESC LIMIT 1", learnware_id, State.QUARANTINED)
        return next(iter(rows), None)

    def lost(self) -> list[Record]:
        """Returns the records in quarantine that were served, and whose files were harmed in the market since; those of
        ids that nothing was submitted for afterwards."""
        return self._select(f"WHERE state = ? AND {_LOST} ORDER BY id", State.QUARANTINED)

    def unserved(self) -> dict[str, int]:
        """Returns how many learnwares the market has and does not serve, by their state: the unfit ones, and the ids
        whose latest submission is in quarantine. A canary in quarantine is none of them: its learnware is served."""
        unfit, quarantined = self._connection.execute(
            f"SELECT (SELECT count(*) FROM learnwares WHERE {_IN_STATE['unfit']}), "  # noqa: S608 - constants
            "(SELECT count(*) FROM (SELECT state, max(number) FROM learnwares WHERE share IS NULL GROUP BY id) "
            "WHERE state = ?)",
            (State.QUARANTINED,),
        ).fetchone()
        counts = {str(State.UNFIT): unfit, str(State.QUARANTINED): quarantined}
        return {state: count for state, count in counts.items() if count}

    def canaries(self) -> list[Record]:
        """Returns the records of the canaries that run or are unfit, sorted by id."""
        return self._select("WHERE state = ? AND share IS NOT NULL ORDER BY id", State.ACTIVE)

    def ended(self, learnware_id: str) -> list[Record]:
        """Returns the records under this id that hold it no more, the oldest first."""
        return self._select("WHERE id = ? AND state != ? ORDER BY number", learnware_id, State.ACTIVE)

    def served(self) -> list[tuple[str, int, str, float | None]]:
        """Returns id, version, SHA-256 and, of a canary, the share of the active learnwares, sorted by id: the content
        of a catalogue, which each change needs, without the rest of 10,000 records."""
        return self._connection.execute(
            f"SELECT id, version, sha256, share FROM learnwares WHERE {_SERVED} ORDER BY id"  # noqa: S608 - a constant
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
        unfit: str | None = None,
        origin: str | None = None,
        notes: Sequence[str] = (),
        share: float | None = None,
    ) -> Record:
        """Adds a record and returns it. One with a reason `unfit` is active in name and not served; one with a `share`
        is a canary from now on."""
        text = None if card is None else card.model_dump_json(exclude_none=True)
        kept = json.dumps(notes) if notes else None
        now = _now()
        since = None if share is None else now
        values = (learnware_id, version, sha256, state, reason, now, text, stamp, unfit, origin, kept, share, since)
        number = self._connection.execute(
            f"INSERT INTO learnwares ({_COLUMNS}) VALUES (NULL{', ?' * len(values)})",  # noqa: S608 - a constant
            values,
        ).lastrowid
        return self._select("WHERE number = ?", number)[0]

    def end(self, record: Record, state: State, reason: str | None = None) -> Record:
        """Gives a record another state and returns it."""
        self._connection.execute(
            "UPDATE learnwares SET state = ?, reason = ?, unfit = NULL, changed = ? WHERE number = ?",
            (state, reason, _now(), record.number),
        )
        return self._select("WHERE number = ?", record.number)[0]

    def clear_origin(self, record: Record) -> None:
        """Lets the bytes of a record be submitted again, although it is in quarantine."""
        self._connection.execute("UPDATE learnwares SET origin = NULL WHERE number = ?", (record.number,))

    def set_unfit(self, record: Record, reason: str | None) -> None:
        """Keeps why the learnware that holds an id is not served today; None: it is served."""
        self._connection.execute(
            "UPDATE learnwares SET unfit = ?, changed = ? WHERE number = ?", (reason, _now(), record.number)
        )

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
    """Makes the database if it is not there, and brings one of an earlier format to today's; whole or not at all.

    Raises:
        InvalidInput: a later version of this project made it.
    """
    with closing(_connect(root, timeout_s)) as connection:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > _FORMAT:
            raise InvalidInput(
                f"the market in {root} has format {found}, of a later version of this project; this one reads up to "
                f"{_FORMAT}"
            )
        if found < _FORMAT:
            connection.executescript(f"BEGIN IMMEDIATE; {_CHANGES[found]} PRAGMA user_version = {_FORMAT}; COMMIT;")


def is_current(root: Path) -> bool:
    """Whether there is a market in this folder whose database can be read, in today's format."""
    if not is_market(root):
        return False
    try:
        with closing(_connect(root, 0)) as connection:
            return bool(connection.execute("PRAGMA user_version").fetchone()[0] == _FORMAT)
    except sqlite3.Error:
        return False


def is_market(root: Path) -> bool:
    """Whether there is a market in this folder."""
    return (root / JOURNAL_FILE).is_file()


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
    number, learnware_id, version, sha256, state, reason, changed, card, stamp, unfit, origin, notes, share, since = row
    why = reason if unfit is None else unfit
    return Record(
        number,
        learnware_id,
        version,
        sha256,
        State(state) if unfit is None else State.UNFIT,
        None if why is None else _shown(why),
        datetime.fromisoformat(changed),
        card,
        stamp,
        origin,
        tuple(_shown(note) for note in json.loads(notes)) if notes else (),
        share,
        None if since is None else datetime.fromisoformat(since),
    )


def _shown(text: str) -> str:
    """Returns a text for lists and terminals, which may repeat what an upload says: characters that cannot be printed
    are escaped, and it is cut at `LONGEST_TEXT`."""
    cut = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    return cut if cut.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in cut)


def _now() -> str:
    return datetime.now(UTC).isoformat()
