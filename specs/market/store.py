"""The market on disk: one folder, changed by one writer at a time, whole at every moment.

    market.sqlite        the journal: every submission and its state (`specs.market.journal`)
    objects/<sha256>/    learnware folders (`specs.market.objects`)
    quarantine/          what was refused or withdrawn, as far as it could be taken in
    incoming/            submissions on their way
    catalogue.json       what is served (`specs.market.catalogue`)
    market.lock          held by the process that changes something

A change goes: files into `incoming`, checked there; under the lock, rename into `objects`, then one transaction, then
the catalogue. Killed in between, the next start finds an object that nothing refers to (removed), or a catalogue of an
older sequence (written again). So a change is in effect, whole, exactly when its transaction is; the catalogue follows
(`specs.market.publishing`).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from specs.capability import Capability, save_capability
from specs.errors import InvalidInput, InvalidLearnware, MarketBusy, MarketUnwritable, UnknownLearnware
from specs.learnware import SPECIFICATION_FOLDER
from specs.market import journal
from specs.market.acceptance import check_vacant, holder, replaceable, unknown
from specs.market.checks import Requirements, check_learnware
from specs.market.examination import Checks, ChecksHere
from specs.market.intake import Limits, Progress
from specs.market.integrity import catalogue_of, find_problems, recheck, refit, repair
from specs.market.journal import Journal, Record, State
from specs.market.locking import market_lock
from specs.market.objects import ObjectStore, fingerprint, stamp
from specs.market.publishing import Publisher
from specs.market.quarantine import Freed, drop_beyond_bounds, purge, release
from specs.market.search import search
from specs.market.staged import Staged
from specs.market.staging import Refused, Staging
from specs.market.writing import MARKET, unwritable_as_error
from specs.suggestion import did_you_mean

logger = logging.getLogger("ray.serve")

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
        *,
        checks: Checks | None = None,
        lenient: bool = False,
    ) -> None:
        """Opens or makes the market. `checks` examine submissions (default: in this process). With `lenient` one that
        another process is changing, or whose disk cannot be written, is opened all the same, to be read; `reconcile`
        then repairs it later.

        Raises:
            MarketBusy: another process is changing it.
            MarketUnwritable: the disk is full, or cannot be written.
        """
        self.root = root.resolve()
        self._requirements = requirements or Requirements()
        self._limits = limits or Limits()
        self._timeout_s = lock_timeout_s
        with unwritable_as_error(MARKET):
            if not self.root.is_dir():
                self.root.mkdir(parents=True, exist_ok=True)
            self._objects = ObjectStore(self.root)
        self._checks = checks or ChecksHere()
        self._publisher = Publisher(self.root)
        self._repaired = False
        try:
            self._repair()
        except (MarketBusy, MarketUnwritable) as error:
            if not (lenient and journal.is_current(self.root)):
                raise
            logger.error("the market is opened as it stands, and looked after later: %s", error)

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
        refuse = self._refuse if record else None
        staging = Staging(self.root, self._timeout_s, self._limits, self._requirements, self._checks, refuse)
        with ExitStack() as open_:
            with unwritable_as_error(MARKET):
                place = open_.enter_context(self._objects.incoming())
                staged = staging.stage(Path(source), place, progress, recorded_as, unfit_too=unfit_too)
            yield staged

    @property
    def sequence(self) -> int:
        """Number of the last change."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.fact("sequence")

    @property
    def unpublished(self) -> str | None:
        """Reason why the last change is made and not published; None while the catalogue is up to date."""
        return self._publisher.failure

    def reconcile(self) -> bool:
        """Brings the published catalogue up to the journal, and repairs what could not be when the market was opened.
        Costs little where nothing is to be done. Returns whether the catalogue is published.

        Raises:
            MarketBusy: another process is changing the market.
            MarketUnwritable: the disk is full, or cannot be written.
        """
        if not self._repaired:
            self._repair()
        if self._publisher.is_current(self.sequence):
            return True
        with self._lock(), journal.reading(self.root, self._timeout_s) as book:
            return self._publisher.reconcile(catalogue_of(book, self._objects))

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
        learnware = self._checks.check_again(staged.folder, self._requirements)
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
        return self._refuse(Refused(learnware.id, staged.folder, staged.sha256, reason, staged.card, origin))

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

    def _refuse(self, refused: Refused) -> Record:
        with self._change() as book:
            if refused.folder is not None and refused.sha256 is not None:
                self._objects.put_in_quarantine(refused.folder, refused.sha256)
            return book.add(
                refused.name,
                State.QUARANTINED,
                version=refused.card.version if refused.card else 0,
                sha256=refused.sha256,
                reason=refused.reason,
                card=refused.card,
                origin=refused.origin,
            )

    @contextmanager
    def _change(self) -> Iterator[Journal]:
        """Makes one change of what is served: takes the lock, runs a transaction, publishes the catalogue. The change
        is made when the transaction is; a catalogue that cannot be written then is behind (`unpublished`)."""
        with self._lock():
            with journal.writing(self.root, self._timeout_s) as book:
                yield book
                book.set_fact("sequence", book.fact("sequence") + 1)
                catalogue = catalogue_of(book, self._objects)
            self._publisher.publish(catalogue)

    @contextmanager
    def _mending(self) -> Iterator[Journal]:
        """Makes a change as `_change`, but publishes the catalogue only if the sequence number has been moved."""
        with self._lock():
            with journal.writing(self.root, self._timeout_s) as book:
                before = book.fact("sequence")
                yield book
                moved = book.fact("sequence") != before
                catalogue = catalogue_of(book, self._objects) if moved else None
            if catalogue is not None:
                self._publisher.publish(catalogue)

    def _repair(self) -> None:
        with self._lock():
            journal.prepare(self.root, self._timeout_s)
            self._objects.sweep()
            repair(self.root, self._objects, self._timeout_s)
            with journal.reading(self.root, self._timeout_s) as book:
                self._publisher.reconcile(catalogue_of(book, self._objects))
        self.collect_garbage()
        self._repaired = True

    def _lock(self) -> AbstractContextManager[None]:
        return market_lock(self.root, self._timeout_s)
