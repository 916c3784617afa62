"""Keeps records of decisions in a SQLite file, bounded by number and age.

A record comes in two halves: the replica's (how the request went) and the router's (what was chosen and from what).
They carry the same decision's id, come in any order, and are joined when they are read. A record's public key is its
tenant and the request's id; clients may send one id twice, and the newest request counts.

The columns that tell more than figures can be erased by themselves: the vector of the choice, the ask's sentences,
prompt and answer. SQLite overwrites what is deleted (`secure_delete`).

A file that is broken is moved aside and a new one begun; a disk that is full or read-only costs the records that come
meanwhile, which are counted. No method of the writer's side raises for either.
"""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from serving.decisions.comparisons import Comparisons, erase_texts, prune
from serving.decisions.database import Database
from serving.decisions.filters import Filters
from serving.decisions.redaction import Redactor
from serving.decisions.rows import SELECT, choice_row, record_of, record_row, with_text
from specs.errors import DecisionsUnavailable, InvalidInput

logger = logging.getLogger("ray.serve")

DAY_S = 86_400.0
"""Seconds of a day."""
PRUNE_EVERY_S = 60.0
"""Seconds between two looks for what is too old."""
CHOICES_PER_RECORD = 2
"""Routers' halves that are kept, for each record that may be: some belong to requests that never reached a replica."""
MOST_FEEDBACK = 20
"""The most pieces of feedback on one record."""
PAGE = 500
"""Rows that are read at a time."""

_INSERT_CHOICE = "INSERT OR IGNORE INTO choices VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

Found = TypeVar("Found")


class FeedbackRow(NamedTuple):
    """One piece of feedback, with the record that it is about. The piece has `seq`, by which a reader goes on."""

    record: dict[str, Any]
    piece: dict[str, Any]


class DecisionStore:
    """The log of decisions. Safe to use from several threads of one process, its only writer."""

    def __init__(
        self,
        path: Path,
        max_records: int,
        keep_days: float,
        *,
        vectors: bool = True,
        prompts: bool = False,
        prompt_keep_days: float = 7.0,
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens the file or makes it, and erases what is not to be kept any more.

        Args:
            path: the file; its folder is made.
            max_records: the most records that are kept.
            keep_days: days after which a record goes.
            vectors: whether vectors are kept; if not, those of earlier runs are erased.
            prompts: whether prompts, answers and asks are kept; if not, those of earlier runs are erased.
            prompt_keep_days: days after which they are erased.
            redactor: takes out of prompts, answers and asks what must not be kept.
            clock: epoch time in seconds.
        """
        self._database = Database(path, clock)
        self._max_records, self._keep_s = max_records, keep_days * DAY_S
        self._vectors, self._prompts, self._prompt_keep_s = vectors, prompts, prompt_keep_days * DAY_S
        self._redactor = redactor or Redactor()
        self._clock = clock
        self._lock = threading.RLock()
        self._next_prune = float("-inf")
        self._counts: dict[str, int] | None = None
        self._pruned = False
        self.lost = 0
        """Halves that could not be stored."""
        self.comparisons = Comparisons(self, max_records, self._redactor if prompts else None)
        """The table of compared answers, in the same file."""
        self.change(self._erase_what_is_off, None)
        self.change(self._prune, None)

    @property
    def fault(self) -> str | None:
        """Why the file cannot be used now; None while it can."""
        return self._database.fault

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    def add(self, parts: Iterable[Mapping[str, Any]]) -> int:
        """Stores halves of records; returns how many could not be, which are counted in `lost`. Never raises."""
        wanted = list(parts)
        try:
            lost = self.change(lambda db: self._add(db, wanted), len(wanted))
        except Exception:
            logger.exception("halves of records were not understood")
            lost = len(wanted)
        self.lost += lost
        return lost

    def find(self, filters: Filters) -> list[dict[str, Any]]:
        """Returns the records that pass the filters, the newest first.

        Raises:
            DecisionsUnavailable: the file cannot be used now.
        """
        where, values = filters.as_sql()
        query = f"{SELECT} {where} ORDER BY r.time DESC, r.seq DESC LIMIT ?"
        return self.look(lambda db: self._with_feedback(db, db.execute(query, (*values, filters.limit)).fetchall()))

    def get(self, tenant: str | None, request_id: str) -> dict[str, Any] | None:
        """Returns the newest record of a request's id, of one tenant or (None) of any; None where there is none.

        Raises:
            DecisionsUnavailable: the file cannot be used now.
        """
        found = self.find(Filters(tenant=tenant, id=request_id, limit=1))
        return found[0] if found else None

    def get_all(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
        """Returns the records of these tenants and requests' ids, as far as there are any, in one look.

        Raises:
            DecisionsUnavailable: the file cannot be used now.
        """

        def read(db: sqlite3.Connection) -> list[dict[str, Any]]:
            # one by one: SQLite finds no pair of a list of pairs by its index
            query = f"{SELECT} WHERE r.tenant = ? AND r.id = ?"
            found = [row for key in keys for row in db.execute(query, key)]
            return self._with_feedback(db, found)

        return {(record["tenant"], record["id"]): record for record in self.look(read)}

    def feedback(self, tenant: str | None, request_id: str, piece: Mapping[str, Any], by: str) -> dict[str, Any] | None:
        """Adds a piece of feedback (score, label, answer) of the tenant `by` to the newest record of a request's id, of
        one tenant or (None) of any. Returns the record with it; None where there is no such record.

        Raises:
            InvalidInput: the record has as much feedback as is kept.
            DecisionsUnavailable: the file cannot be used now.
        """

        def write(db: sqlite3.Connection) -> int | None:
            wanted, values = ("", ()) if tenant is None else (" AND tenant = ?", (tenant,))
            row = db.execute(
                f"SELECT seq FROM records WHERE id = ?{wanted} ORDER BY time DESC, seq DESC LIMIT 1",  # noqa: S608
                (request_id, *values),
            ).fetchone()
            if row is None:
                return None
            (count,) = db.execute("SELECT count(*) FROM feedback WHERE record = ?", row).fetchone()
            if count >= MOST_FEEDBACK:
                raise InvalidInput(f"This decision has {count} pieces of feedback, as many as are kept for one.")
            db.execute(
                "INSERT INTO feedback(record, time, tenant, body) VALUES (?, ?, ?, ?)",
                (row[0], self._clock(), by, json.dumps(dict(piece))),
            )
            return int(row[0])

        if self._read(write) is None:
            return None
        return self.get(tenant, request_id)

    def note_measured(self, seq: int, found: Mapping[str, Any]) -> bool:
        """Adds what the scores of a right answer say, as `measured`, to the piece of feedback with this `seq`. Returns
        False where it is gone.

        Raises:
            DecisionsUnavailable: the file cannot be used now.
        """

        def write(db: sqlite3.Connection) -> bool:
            row = db.execute("SELECT body FROM feedback WHERE seq = ?", (seq,)).fetchone()
            if row is None:
                return False
            body = json.dumps({**json.loads(row["body"]), "measured": dict(found)})
            db.execute("UPDATE feedback SET body = ? WHERE seq = ?", (body, seq))
            return True

        return bool(self._read(write))

    def feedback_rows(self, after: int = 0) -> Iterator[FeedbackRow]:
        """Yields the pieces of feedback whose `seq` is above `after`, in that order, each with its record as it is now.

        Raises:
            DecisionsUnavailable: the file cannot be used now.
        """
        while True:
            last = after

            def read(db: sqlite3.Connection, last: int = last) -> list[FeedbackRow]:
                rows = db.execute(
                    "SELECT seq, record, time, tenant, body FROM feedback WHERE seq > ? ORDER BY seq LIMIT ?",
                    (last, PAGE),
                ).fetchall()
                wanted = sorted({row[1] for row in rows})
                marks = ",".join("?" * len(wanted))
                found = db.execute(f"{SELECT} WHERE r.seq IN ({marks})", wanted).fetchall()
                records = {row["seq"]: one for row, one in zip(found, self._with_feedback(db, found), strict=True)}
                return [FeedbackRow(records[row[1]], {"seq": row[0], **_piece(row)}) for row in rows]

            page = self.look(read)
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].piece["seq"]

    def look(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        """Reads beside the writer; where the file cannot be read so, as the writer, who mends what can be mended.

        Raises:
            DecisionsUnavailable: the file cannot be used now.
        """
        try:
            found: Found = self._database.look(work)
        except TimeoutError:
            raise DecisionsUnavailable(
                "Looking for these decisions took too long: filter by fewer things, or give `after`."
            ) from None
        except sqlite3.Error:
            return self._read(work)
        return found

    def _read(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        missing = object()
        found: Any = self.change(work, missing)
        if found is missing:
            raise DecisionsUnavailable(f"The log of decisions cannot be used now: {self.fault}.")
        return found

    def change(self, work: Callable[[sqlite3.Connection], Any], otherwise: Any) -> Any:
        """Runs a transaction; on a broken file once more, over a new one. Returns `otherwise` where the file cannot be
        used."""
        with self._lock:
            for _ in range(2):
                found = self._database.run(work, otherwise)
                anew = self._database.begun_anew()
                if anew or self.fault is not None:
                    self._counts = None
                if not anew:
                    break
            else:
                found = otherwise
            if self._pruned and self.fault is None:
                self._pruned = False
                self._database.checkpoint()
            return found

    def _add(self, db: sqlite3.Connection, parts: list[Mapping[str, Any]]) -> int:
        counts, bad = self._counted(db), 0
        for part in parts:
            if "id" in part:
                counts["records"] += self._add_record(db, part)
            elif "choice" in part:
                redactor = self._redactor if self._prompts else None
                row = choice_row(part, self._clock(), vectors=self._vectors, redactor=redactor)
                counts["choices"] += db.execute(_INSERT_CHOICE, row).rowcount
            else:
                bad += 1
        self._cut(db, counts)
        if self._clock() >= self._next_prune:
            self._prune(db)
        return bad

    def _add_record(self, db: sqlite3.Connection, part: Mapping[str, Any]) -> int:
        """Stores a replica's half; returns how many were written. One that was sent twice changes nothing,
        and a newer one takes the place of an older one of the same id."""
        found = db.execute(
            "SELECT seq, time FROM records WHERE tenant = ? AND id = ?", (part["tenant"], part["id"])
        ).fetchone()
        if found is not None:
            if float(part["time"]) <= found["time"]:
                return 0
            self._delete(db, "seq = ?", (found["seq"],))
        text = with_text(part, self._redactor) if self._prompts else None
        db.execute(
            "INSERT INTO records(tenant, id, decision, time, learnware, reason, status, body, text) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*record_row(part), text),
        )
        return 1

    def _counted(self, db: sqlite3.Connection) -> dict[str, int]:
        if self._counts is None:
            self._counts = {
                table: int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
                for table in ("records", "choices")
            }
        return self._counts

    def _cut(self, db: sqlite3.Connection, counts: dict[str, int]) -> None:
        """Removes the oldest of what is too many."""
        surplus = counts["records"] - self._max_records
        if surplus > 0:
            self._delete(db, "seq IN (SELECT seq FROM records ORDER BY seq LIMIT ?)", (surplus,))
        surplus = counts["choices"] - CHOICES_PER_RECORD * self._max_records
        if surplus > 0:
            oldest = "SELECT rowid FROM choices ORDER BY rowid LIMIT ?"
            counts["choices"] -= db.execute(f"DELETE FROM choices WHERE rowid IN ({oldest})", (surplus,)).rowcount  # noqa: S608

    def _delete(self, db: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> None:
        counts = self._counted(db)
        decisions = f"SELECT decision FROM records WHERE {where}"  # noqa: S608 (made of constants)
        counts["choices"] -= db.execute(f"DELETE FROM choices WHERE decision IN ({decisions})", values).rowcount  # noqa: S608
        counts["records"] -= db.execute(f"DELETE FROM records WHERE {where}", values).rowcount  # noqa: S608

    def _prune(self, db: sqlite3.Connection) -> None:
        """Removes what is too old."""
        now = self._clock()
        self._next_prune = now + PRUNE_EVERY_S
        self._delete(db, "time < ?", (now - self._keep_s,))
        db.execute("DELETE FROM choices WHERE time < ?", (now - self._keep_s,))
        self._counts = None
        old = now - self._prompt_keep_s
        db.execute("UPDATE records SET text = NULL WHERE text IS NOT NULL AND time < ?", (old,))
        db.execute("UPDATE choices SET ask = NULL WHERE ask IS NOT NULL AND time < ?", (old,))
        prune(db, now - self._keep_s, old)
        self._pruned = True

    def _erase_what_is_off(self, db: sqlite3.Connection) -> None:
        if not self._vectors:
            db.execute("UPDATE choices SET encoder = NULL, form = NULL, vector = NULL WHERE vector IS NOT NULL")
        if not self._prompts:
            db.execute("UPDATE records SET text = NULL WHERE text IS NOT NULL")
            db.execute("UPDATE choices SET ask = NULL WHERE ask IS NOT NULL")
            erase_texts(db)

    @staticmethod
    def _with_feedback(db: sqlite3.Connection, rows: list[sqlite3.Row]) -> list[dict[str, Any]]:
        pieces: dict[int, list[dict[str, Any]]] = {}
        for first in range(0, len(rows), PAGE):
            page = [row["seq"] for row in rows[first : first + PAGE]]
            marks = ",".join("?" * len(page))
            for row in db.execute(
                f"SELECT seq, record, time, tenant, body FROM feedback WHERE record IN ({marks}) ORDER BY seq",  # noqa: S608
                page,
            ):
                pieces.setdefault(row["record"], []).append(_piece(row))
        return [record_of(row, pieces.get(row["seq"], [])) for row in rows]


def _piece(row: sqlite3.Row) -> dict[str, Any]:
    return {"time": row["time"], "tenant": row["tenant"], **json.loads(row["body"])}
