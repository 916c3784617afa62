"""The market on disk: one folder, changed by one writer at a time, whole at every moment.

    market.sqlite        the journal: every submission and its state (`specs.market.journal`)
    objects/<sha256>/    learnware folders (`specs.market.objects`)
    quarantine/          what was refused or withdrawn, as far as it could be taken in
    incoming/            submissions on their way
    catalogue.json       what is served (`specs.market.catalogue`)
    market.lock          held by the process that changes something

A change goes: files into `incoming`, checked there; under the lock, rename into `objects`, then one transaction, then
the catalogue. Killed in between, the next start finds an object that nothing refers to (removed), or a catalogue of an
older sequence (written again). So a change is in effect, whole, exactly when its transaction is.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import Timeout

from specs.adapter_conversion import make_servable
from specs.capability import CAPABILITY_FILE, Capability, save_capability
from specs.card import CARD_FILE, Card, load_card, readable_card
from specs.errors import InvalidInput, InvalidLearnware, MarketBusy, UnknownLearnware
from specs.files import file_lock
from specs.learnware import SPECIFICATION_FOLDER, Learnware, load_learnware
from specs.market import journal
from specs.market.acceptance import check_vacant, holder, replaceable, unknown
from specs.market.catalogue import write_catalogue
from specs.market.checks import Requirements, check_learnware
from specs.market.intake import Limits, Progress, take
from specs.market.integrity import catalogue_of, find_problems, recheck, refit, repair
from specs.market.journal import Journal, Record, State
from specs.market.objects import ObjectStore, fingerprint, stamp
from specs.market.quarantine import Freed, check_not_held_back, drop_beyond_bounds, purge, release
from specs.market.search import search
from specs.market.staged import Staged
from specs.suggestion import did_you_mean

LOCK_TIMEOUT_S = 10.0
"""Seconds that a change waits for the market's lock."""
KEPT_S = 3600.0
"""Seconds that the files of a learnware are kept after it was served last: running requests may still need them."""


class Market:
    """The market in folder `root`, which is made if absent. Opening it repairs the traces of a crash.

    Safe to use from several threads and processes: each change takes the lock, and raises MarketBusy if it cannot have
    it in `lock_timeout_s` seconds.
    """

    def __init__(
        self,
        root: Path,
        requirements: Requirements | None = None,
        limits: Limits | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
    ) -> None:
        self.root = root.resolve()
        self._requirements = requirements or Requirements()
        self._limits = limits or Limits()
        self._timeout_s = lock_timeout_s
        self.root.mkdir(parents=True, exist_ok=True)
        self._objects = ObjectStore(self.root)
        with self._lock():
            journal.prepare(self.root, self._timeout_s)
            self._objects.sweep()
            repair(self.root, self._objects, self._timeout_s)
        self.collect_garbage()

    @contextmanager
    def stage(
        self,
        source: str | Path,
        *,
        progress: Progress = lambda _: None,
        record: bool = True,
        recorded_as: str | None = None,
        unfit_too: bool = False,
    ) -> Iterator[Staged]:
        """Takes in and checks a submission: a folder or a zip file.

        A refused submission is put into quarantine with the reason, unless `record` is False. Where it has no readable
        card it is recorded under the id `recorded_as`, or without one under a name made from its source's. With
        `unfit_too` one that is whole but does not fit today's configuration is staged all the same.

        Raises:
            InvalidLearnware: the submission is refused, or in quarantine already; the message says why.
            InvalidInput: there is nothing to take in.
        """
        name = re.sub(r"[^\w.-]", "_", Path(source).stem if str(source).endswith(".zip") else Path(source).name)[:64]
        with self._objects.incoming() as place:
            folder = place / (name.strip(".") or "learnware")
            folder.mkdir()
            try:
                take(Path(source), folder, self._limits, progress)
            except InvalidLearnware as error:
                if record:
                    self._refuse(recorded_as or folder.name, None, None, str(error))
                raise InvalidLearnware(f"learnware {recorded_as or folder.name}: {error}") from None
            origin = fingerprint(folder)
            with journal.reading(self.root, self._timeout_s) as book:
                check_not_held_back(book, origin)
            try:
                changes = make_servable(folder, self._requirements.base)
                learnware, unfit = self._checked(folder, unfit_too=unfit_too)
            except InvalidLearnware as error:
                if record:
                    card = readable_card(folder / CARD_FILE)
                    named = card.id if card else recorded_as or folder.name
                    self._refuse(named, folder, fingerprint(folder), str(error), card, origin)
                raise
            if learnware.capability is None:  # none, or one of another base model, which nobody must read
                (folder / SPECIFICATION_FOLDER / CAPABILITY_FILE).unlink(missing_ok=True)
            learnware = changed(learnware, notes=(*changes, *learnware.notes))
            yield Staged(
                learnware, load_card(folder / CARD_FILE), fingerprint(folder), folder, origin, unfit, learnware.notes
            )

    def active(self, learnware_id: str) -> Record:
        """Returns the learnware that holds this id: it is served, or unfit. Raises UnknownLearnware."""
        with journal.reading(self.root, self._timeout_s) as book:
            return holder(book, learnware_id)

    def check_acceptable(self, staged: Staged, *, replace: bool) -> None:
        """Raises the error that `submit`, or `replace`, would raise now; changes nothing."""
        with journal.reading(self.root, self._timeout_s) as book:
            (replaceable if replace else check_vacant)(book, staged.learnware)

    def with_capability(self, staged: Staged, capability: Capability) -> Staged:
        """Returns a staged submission with this capability in the place of the one that it came with, if any. Its
        content changes, and so does its hash."""
        save_capability(capability, staged.folder / SPECIFICATION_FOLDER)
        learnware = check_learnware(staged.folder, self._requirements)
        return staged._replace(learnware=learnware, sha256=fingerprint(staged.folder))

    def submit(self, staged: Staged) -> Record:
        """Adds a learnware whose id is not in the market. It is served from now on.

        Raises:
            DuplicateLearnware: the id is taken.
            InvalidLearnware: a version as high was served before.
        """
        return self.submit_together([staged])[0]

    def submit_together(self, several: Sequence[Staged]) -> list[Record]:
        """Adds learnwares with one change: all of them or none. Raises as `submit`."""
        if not several:
            return []
        with self._change() as book:
            for staged in several:
                check_vacant(book, staged.learnware)
            return [self._activate(book, staged) for staged in several]

    def replace(self, staged: Staged) -> Record:
        """Puts a new version in the place of the active one.

        Raises:
            UnknownLearnware: there is none of that id.
            InvalidLearnware: the version is not higher.
        """
        with self._change() as book:
            book.end(replaceable(book, staged.learnware), State.REPLACED)
            return self._activate(book, staged)

    def remove(self, learnware_id: str) -> Record:
        """Stops serving a learnware. Raises UnknownLearnware."""
        with self._change() as book:
            return book.end(holder(book, learnware_id), State.REMOVED)

    def quarantine(self, learnware_id: str, reason: str) -> Record:
        """Stops serving a learnware and keeps its files, with the reason.

        Raises:
            UnknownLearnware: no learnware is served under this id.
            InvalidInput: the reason is empty.
        """
        if not reason.strip():
            raise InvalidInput("a learnware is put into quarantine with a reason")
        with self._change() as book:
            return book.end(holder(book, learnware_id), State.QUARANTINED, reason)

    def refuse(self, staged: Staged, reason: str, *, held_back: bool = True) -> Record:
        """Puts a staged submission into quarantine instead of serving it. With `held_back` False the same files may be
        submitted again."""
        learnware, origin = staged.learnware, staged.origin if held_back else None
        return self._refuse(learnware.id, staged.folder, staged.sha256, reason, staged.card, origin)

    def release(self, learnware_id: str) -> Record:
        """Takes the latest submission of this id out of quarantine: one that was served is served again, the files of
        any other may be submitted again.

        Raises:
            UnknownLearnware: no learnware of this id is in quarantine.
            InvalidLearnware: it was served, and does not pass the checks now, or a higher version was served since.
            DuplicateLearnware: it was served, and another learnware has its id now.
        """
        with self._change() as book:
            record = book.in_quarantine(learnware_id)
            if record is None:
                ids = [each.id for each in book.records(State.QUARANTINED)]
                raise UnknownLearnware(
                    f"no learnware {learnware_id!r} is in quarantine{did_you_mean(learnware_id, ids)}"
                )
            return release(book, self._objects, record, self._requirements)

    def check_files(self, learnware_id: str, sha256: str, reason: str) -> Record | None:
        """Looks after a learnware that an engine could not load, for `reason`. It is put into quarantine if its files
        are missing, or do not pass the checks any more; returns its record then, and None if it stays."""
        with self._mending() as book:
            record = book.active(learnware_id)
            if record is None or record.sha256 != sha256:
                return None
            if recheck(record, self._objects, book):
                try:
                    check_learnware(self._objects.folder(sha256), self._requirements)
                    return None
                except InvalidLearnware as error:
                    book.end(record, State.QUARANTINED, f"the engine could not load it: {reason}; {error}")
                    book.set_fact("sequence", book.fact("sequence") + 1)
            return book.in_quarantine(learnware_id)

    def refit(self) -> list[str]:
        """Serves from now on what fits the requirements that this market was opened with, and returns why others are
        not served. What does not fit is kept, and served as soon as it does; what is broken is put into quarantine."""
        with self._mending() as book:
            return refit(book, self._objects, self._requirements)

    def lost(self) -> list[str]:
        """Returns why learnwares that were in the market by right are not served: those that do not fit today's
        configuration, and those whose files were harmed in the market."""
        with journal.reading(self.root, self._timeout_s) as book:
            unfit = [str(record.reason) for record in book.records(State.UNFIT)]
            return unfit + [f"learnware {record.id}: {record.reason}" for record in book.lost()]

    def unserved(self) -> dict[str, int]:
        """Returns how many learnwares the market has and does not serve, by state: unfit ones, and those whose latest
        submission is in quarantine."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.unserved()

    def records(self, state: State | None = State.ACTIVE) -> list[Record]:
        """Returns the records in one state, or all of them if it is None, sorted by id."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.records(state)

    def show(self, learnware_id: str) -> Record:
        """Returns the active learnware of that id, else the latest that had it. Raises UnknownLearnware."""
        with journal.reading(self.root, self._timeout_s) as book:
            found = book.active(learnware_id) or book.latest(learnware_id)
            if found is None:
                raise unknown(book, learnware_id)
            return found

    def search(
        self, text: str = "", *, domain: str | None = None, task: str | None = None, language: str | None = None
    ) -> list[Record]:
        """Returns active learnwares whose card holds every word of `text`, the best match first; all if it is empty."""
        return search(self.records(), text, domain=domain, task=task, language=language)

    def folder(self, record: Record) -> Path | None:
        """Returns the place of a record's files, or None if they are kept no more."""
        if record.sha256 is None:
            return None
        places = (self._objects.folder(record.sha256), self._objects.quarantined(record.sha256))
        return next((place for place in places if place.is_dir()), None)

    @property
    def seeded(self) -> bool:
        """Whether the market has been filled (`specs.market.seeding`)."""
        with journal.reading(self.root, self._timeout_s) as book:
            return bool(book.fact("seeded"))

    def end_seeding(self) -> None:
        """Keeps that the market has been filled."""
        with self._lock(), journal.writing(self.root, self._timeout_s) as book:
            book.set_fact("seeded", 1)

    def check_integrity(self, progress: Callable[[str], object] = lambda _: None) -> list[str]:
        """Returns everything that is wrong, in words; empty when the market is whole. Reads every file of every served
        learnware; `progress` is told each one's id."""
        with self._lock(), journal.reading(self.root, self._timeout_s) as book:
            return find_problems(self.root, self._objects, book, progress)

    def collect_garbage(self, kept_s: float = KEPT_S) -> list[str]:
        """Removes files that nothing serves, `kept_s` seconds after they were served last, and returns their hashes.
        Files of quarantined learnwares move to quarantine, which keeps the latest `QUARANTINE_KEPT`."""
        before = datetime.now(UTC) - timedelta(seconds=kept_s)
        with self._lock(), journal.reading(self.root, self._timeout_s) as book:
            records = book.records()
            active = {record.sha256 for record in records if record.state in (State.ACTIVE, State.UNFIT)}
            recent = {record.sha256 for record in records if record.changed > before}
            held = [each for each in records if each.state is State.QUARANTINED and each.sha256 is not None]
            left = sorted(self._objects.hashes() - active - recent)
            for sha in left:
                if sha in {record.sha256 for record in held}:
                    self._objects.withdraw(sha)
                else:
                    self._objects.delete(sha)
            drop_beyond_bounds(self._objects, held)
            return left

    def purge(self) -> Freed:
        """Removes the files of everything that is in quarantine, or was replaced or removed, at once; reasons and
        hashes stay. A request that still waits for a learnware that was just removed may fail."""
        with self._lock(), journal.reading(self.root, self._timeout_s) as book:
            return purge(self._objects, (str(record.sha256) for record in book.holders()))

    def _checked(self, folder: Path, *, unfit_too: bool) -> tuple[Learnware, str | None]:
        try:
            return check_learnware(folder, self._requirements), None
        except InvalidLearnware as error:
            if not unfit_too:
                raise
            with suppress(InvalidLearnware):
                return load_learnware(folder), str(error)
            raise

    def _activate(self, book: Journal, staged: Staged) -> Record:
        self._objects.put(staged.folder, staged.sha256)
        return book.add(
            staged.learnware.id,
            State.ACTIVE,
            version=staged.learnware.version,
            sha256=staged.sha256,
            card=staged.card,
            stamp=stamp(self._objects.folder(staged.sha256)),
            unfit=staged.unfit,
            origin=staged.origin,
            notes=staged.notes,
        )

    def _refuse(
        self,
        name: str,
        folder: Path | None,
        sha256: str | None,
        reason: str,
        card: Card | None = None,
        origin: str | None = None,
    ) -> Record:
        with self._change() as book:
            if folder is not None and sha256 is not None:
                self._objects.put_in_quarantine(folder, sha256)
            version = card.version if card else 0
            return book.add(
                name, State.QUARANTINED, version=version, sha256=sha256, reason=reason, card=card, origin=origin
            )

    @contextmanager
    def _change(self) -> Iterator[Journal]:
        """Makes one change of what is served: takes the lock, runs a transaction, writes the catalogue."""
        with self._lock():
            with journal.writing(self.root, self._timeout_s) as book:
                yield book
                book.set_fact("sequence", book.fact("sequence") + 1)
                catalogue = catalogue_of(book, self._objects)
            write_catalogue(self.root, catalogue)

    @contextmanager
    def _mending(self) -> Iterator[Journal]:
        """Makes a change as `_change`, but writes the catalogue only if the sequence number has been moved."""
        with self._lock():
            with journal.writing(self.root, self._timeout_s) as book:
                before = book.fact("sequence")
                yield book
                moved = book.fact("sequence") != before
                catalogue = catalogue_of(book, self._objects) if moved else None
            if catalogue is not None:
                write_catalogue(self.root, catalogue)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Holds the market's lock, which the system drops when the process ends, however it ends."""
        try:
            held = file_lock(self.root / "market.lock").acquire(self._timeout_s)
        except Timeout:
            raise MarketBusy(
                f"another process has been changing the market in {self.root} for more than {self._timeout_s:g} s; "
                "try again"
            ) from None
        with held:
            yield
