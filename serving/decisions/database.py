"""The SQLite file of the log of decisions: opened, moved aside where it is broken, and tried again where the disk is at
fault."""

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from serving.decisions.comparisons import SCHEMA as COMPARISONS_SCHEMA

logger = logging.getLogger("ray.serve")

FORMAT = 1
"""Number of the tables' form (`PRAGMA user_version`)."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS records(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    decision TEXT,
    time REAL NOT NULL,
    learnware TEXT,
    reason TEXT,
    status INTEGER,
    body TEXT NOT NULL,
    text TEXT,
    UNIQUE(tenant, id)
);
CREATE INDEX IF NOT EXISTS records_time ON records(time);
CREATE INDEX IF NOT EXISTS records_tenant ON records(tenant, time);
CREATE INDEX IF NOT EXISTS records_id ON records(id);
CREATE INDEX IF NOT EXISTS records_text ON records(time) WHERE text IS NOT NULL;
CREATE TABLE IF NOT EXISTS choices(
    decision TEXT PRIMARY KEY,
    time REAL NOT NULL,
    task TEXT,
    body TEXT NOT NULL,
    ask TEXT,
    encoder TEXT,
    form TEXT,
    vector BLOB
);
CREATE INDEX IF NOT EXISTS choices_time ON choices(time);
CREATE INDEX IF NOT EXISTS choices_ask ON choices(time) WHERE ask IS NOT NULL;
CREATE TABLE IF NOT EXISTS feedback(
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    record INTEGER NOT NULL REFERENCES records(seq) ON DELETE CASCADE,
    time REAL NOT NULL,
    tenant TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS feedback_record ON feedback(record);
"""
RETRY_S = 5.0
"""Seconds after which a file that could not be opened is tried again."""
BUSY_S = 2.0
"""Seconds that a transaction waits for another process: while a new replica of the application takes over."""
SAY_EVERY_S = 60.0
"""Seconds between two lines of the log about one fault."""
PAGE_BYTES = 16_384
"""Size of a page: four times SQLite's own, since a choice with its vector is nearly as large as one of those."""
LOOK_S = 2.0
"""Seconds that one look at the records may take."""
STEPS = 10_000
"""Steps of SQLite's machine between two looks at the clock, about a millisecond."""
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_COMPANIONS = ("", "-wal", "-shm", "-journal")
"""Endings of the files that belong together."""


class Database:
    """A SQLite file that is opened when it is needed. Not thread-safe."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._next_try = self._said = float("-inf")
        self._anew = False
        self.fault: str | None = None
        """Why it cannot be used; None while it can."""

    def begun_anew(self) -> bool:
        """Returns whether the last `run` found the file broken and moved it aside, so that it may be tried again."""
        anew, self._anew = self._anew, False
        return anew

    def run(self, work: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
        """Runs one transaction; returns its result, or `otherwise` where the file cannot be used. Errors other than
        SQLite's undo the transaction and are raised."""
        try:
            connection = self._open()
            if connection is None:
                return otherwise
            connection.execute("BEGIN IMMEDIATE")
            try:
                found = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.IntegrityError:
            raise
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            return otherwise
        self.fault = None
        return found

    def look(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """Returns the result of `work` over a connection of its own, which waits for no writer and keeps none waiting.
        All queries of `work` see the same state of the file. Safe to call from any thread.

        Raises:
            TimeoutError: it took longer than `LOOK_S`.
            sqlite3.Error: the file cannot be read; `run` looks after it.
        """
        until = time.monotonic() + LOOK_S
        with closing(
            sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        ) as connection:
            connection.row_factory = sqlite3.Row
            connection.set_progress_handler(lambda: time.monotonic() > until, STEPS)
            try:
                connection.execute("BEGIN")  # all of its queries see one state; closing ends it
                return work(connection)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                    raise TimeoutError from None
                raise

    def checkpoint(self) -> None:
        """Empties the journal, which may still hold what was erased."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is not None:
            return self._connection
        if self._clock() < self._next_try:
            return None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # its owner's alone: SQLite gives the files beside it the same mode
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path.chmod(0o600)
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version in (0, FORMAT):
                self._prepare(connection)
        except sqlite3.Error:
            connection.close()
            raise
        if version not in (0, FORMAT):
            connection.close()
            self._move_aside(f"it has format {version}, this version knows {FORMAT}")
            self._anew = False  # nothing was tried on it
            return self._open()
        self._connection = connection
        return connection

    @staticmethod
    def _prepare(connection: sqlite3.Connection) -> None:
        connection.row_factory = sqlite3.Row
        for pragma in (
            f"page_size={PAGE_BYTES}",
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "secure_delete=ON",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.executescript(SCHEMA + COMPARISONS_SCHEMA)
        connection.execute(f"PRAGMA user_version={FORMAT}")

    def _failed(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", None)
        if isinstance(code, int) and code & 0xFF in _BROKEN:
            self._move_aside(str(error))
            return
        self.fault = str(error) or type(error).__name__
        if self._clock() - self._said >= SAY_EVERY_S:
            self._said = self._clock()
            logger.error("the log of decisions %s cannot be used, so records are lost: %s", self._path, self.fault)
        if self._connection is None:
            self._next_try = self._clock() + RETRY_S

    def _move_aside(self, why: str) -> None:
        self.close()
        kept = self._path.with_name(f"{self._path.name}.broken-{int(self._clock())}")
        for ending in _COMPANIONS:
            with suppress(OSError):
                Path(f"{self._path}{ending}").rename(f"{kept}{ending}")
        self._anew = True
        logger.error(
            "the log of decisions %s is broken (%s); it is kept as %s, and a new one begun", self._path, why, kept
        )
