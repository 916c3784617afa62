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

from specs.canary import canary_id
from specs.capability import Capability, save_capability
from specs.errors import InvalidInput, InvalidLearnware, MarketBusy, MarketUnwritable, UnknownLearnware
from specs.learnware import SPECIFICATION_FOLDER
from specs.market import journal
from specs.market.acceptance import check_canary, check_vacant, holder, replaceable
from specs.market.canaries import end, promote, roll_back
from specs.market.checks import Requirements, check_learnware
from specs.market.examination import Checks, ChecksHere
from specs.market.intake import Limits, Progress
from specs.market.integrity import catalogue_of, find_problems, recheck, refit, repair
from specs.market.journal import Journal, Record, State
from specs.market.locking import market_lock
from specs.market.objects import ObjectStore, fingerprint, stamp
from specs.market.publishing import Publisher
from specs.market.quarantine import Freed, drop_beyond_bounds, purge, release
from specs.market.staged import Staged
from specs.market.staging import Refused, Staging
from specs.market.view import MarketView
from specs.market.writing import MARKET, unwritable_as_error
from specs.suggestion import did_you_mean

logger = logging.getLogger("ray.serve")

LOCK_TIMEOUT_S = 10.0
"""Seconds that a change waits for the market's lock."""
KEPT_S = 3600.0
"""Seconds that the files of a learnware are kept after it was served last: running requests may still need them."""


class Market(MarketView):
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
        root = root.resolve()
        with unwritable_as_error(MARKET):
            if not root.is_dir():
                root.mkdir(parents=True, exist_ok=True)
            super().__init__(root, ObjectStore(root), lock_timeout_s)
        self._requirements = requirements or Requirements()
        self._limits = limits or Limits()
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

    def check_acceptable(self, staged: Staged, *, replace: bool, canary: bool = False) -> None:
        """Raises the error that `submit`, `replace`, or `submit_canary` would raise now; changes nothing."""
        with journal.reading(self.root, self._timeout_s) as book:
            check = check_canary if canary else replaceable if replace else check_vacant
            check(book, staged.learnware)

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
            CanaryRuns: it has a canary.
            InvalidLearnware: the version is not higher.
        """
        with self._change() as book:
            book.end(replaceable(book, staged.learnware), State.REPLACED)
            return self._activate(book, staged)

    def submit_canary(self, staged: Staged, share: float) -> Record:
        """Serves a new version of a learnware beside it, as its canary, which gets this share of its requests. Raises
        as `replace`, and InvalidLearnware where the learnware is not served."""
        with self._change() as book:
            check_canary(book, staged.learnware)
            return self._activate(book, staged, share)

    def promote(self, learnware_id: str, *, sha256: str | None = None, reason: str | None = None) -> Record:
        """Puts a learnware's canary in its place, and returns its new record. `sha256` says which canary is meant.

        Raises:
            UnknownLearnware, UnknownCanary: there is no such learnware, or it has no such canary.
            InvalidLearnware: the canary does not fit today's configuration.
        """
        with self._change() as book:
            return promote(book, learnware_id, sha256, reason)

    def roll_back(self, learnware_id: str, reason: str, *, sha256: str | None = None) -> Record:
        """Stops serving a learnware's canary, for a reason, and returns the canary's record. `sha256` says which canary
        is meant.

        Raises:
            UnknownLearnware, UnknownCanary: there is no such learnware, or it has no such canary.
            InvalidInput: the reason is empty.
        """
        with self._change() as book:
            return roll_back(book, learnware_id, sha256, reason)

    def remove(self, learnware_id: str) -> Record:
        """Stops serving a learnware, and its canary. Raises UnknownLearnware."""
        with self._change() as book:
            return end(book, holder(book, learnware_id), State.REMOVED)

    def quarantine(self, learnware_id: str, reason: str) -> Record:
        """Stops serving a learnware, and its canary, and keeps its files, with the reason.

        Raises:
            UnknownLearnware: no learnware is served under this id.
            InvalidInput: the reason is empty.
        """
        if not reason.strip():
            raise InvalidInput("a learnware is put into quarantine with a reason")
        with self._change() as book:
            return end(book, holder(book, learnware_id), State.QUARANTINED, reason)

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
                    end(book, record, State.QUARANTINED, f"the engine could not load it: {reason}; {error}")
                    book.set_fact("sequence", book.fact("sequence") + 1)
            return book.in_quarantine(learnware_id)

    def refit(self) -> list[str]:
        """Serves from now on what fits the requirements that this market was opened with, and returns why others are
        not served. What does not fit is kept, and served as soon as it does; what is broken is put into quarantine."""
        with self._mending() as book:
            return refit(book, self._objects, self._requirements)

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

    def _activate(self, book: Journal, staged: Staged, share: float | None = None) -> Record:
        self._objects.put(staged.folder, staged.sha256)
        learnware_id = staged.learnware.id
        return book.add(
            learnware_id if share is None else canary_id(learnware_id),
            State.ACTIVE,
            version=staged.learnware.version,
            sha256=staged.sha256,
            card=staged.card,
            stamp=stamp(self._objects.folder(staged.sha256)),
            unfit=staged.unfit,
            origin=staged.origin,
            notes=staged.notes,
            share=share,
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
