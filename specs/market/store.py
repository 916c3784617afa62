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
import shutil
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout

from specs.adapter_conversion import make_servable
from specs.capability import CAPABILITY_FILE, Capability, save_capability
from specs.card import CARD_FILE, Card, load_card
from specs.errors import DuplicateLearnware, InvalidInput, InvalidLearnware, MarketBusy, UnknownLearnware
from specs.files import file_lock
from specs.learnware import SPECIFICATION_FOLDER, Learnware
from specs.market import journal
from specs.market.catalogue import Entry, write_catalogue
from specs.market.checks import Requirements, check_learnware
from specs.market.intake import Limits, Progress, download, is_hub_id, take
from specs.market.integrity import catalogue_of, find_problems, repair
from specs.market.journal import Journal, Record, State
from specs.market.objects import ObjectStore, fingerprint, stamp
from specs.market.search import search
from specs.suggestion import did_you_mean

LOCK_TIMEOUT_S = 10.0
"""Seconds that a change waits for the market's lock."""
KEPT_S = 3600.0
"""Seconds that the files of a learnware are kept after it was served last: running requests may still need them."""
SEED_BATCH = 100
"""Learnwares that a new market takes in at a time. Each change writes the whole catalogue: one by one, the time would
grow with the square of their number."""
QUARANTINE_KEPT = 100
"""Learnwares whose files are kept in quarantine; of older ones only the reason is."""

Say = Callable[[str], object]
"""A callback that shows a line to the operator."""


class Staged(NamedTuple):
    """A submission that passed every check and is not served yet; `folder` holds its files as long as it is staged."""

    learnware: Learnware
    card: Card
    sha256: str
    folder: Path

    @property
    def entry(self) -> Entry:
        """The submission as an entry of a catalogue."""
        return Entry(self.learnware.id, self.learnware.version, self.sha256, self.folder)


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
        self, source: str | Path, *, progress: Progress = lambda _: None, record: bool = True
    ) -> Iterator[Staged]:
        """Takes in and checks a submission: a folder, a zip file, or a hub id (`owner/name`).

        A refused submission is put into quarantine with the reason, unless `record` is False.

        Raises:
            InvalidLearnware: the submission is refused; the message says why.
            InvalidInput: there is nothing to take in.
        """
        name = re.sub(r"[^\w.-]", "_", Path(source).stem if str(source).endswith(".zip") else Path(source).name)[:64]
        with self._objects.incoming() as place:
            folder = place / (name.strip(".") or "learnware")
            folder.mkdir()
            try:
                self._take(source, folder, place / "download", progress)
            except InvalidLearnware as error:
                if record:
                    self._refuse(folder.name, None, None, str(error))
                raise InvalidLearnware(f"learnware {folder.name}: {error}") from None
            try:
                changes = make_servable(folder, self._requirements.base)
                learnware = check_learnware(folder, self._requirements)
            except InvalidLearnware as error:
                if record:
                    card = _readable_card(folder)
                    self._refuse(card.id if card else folder.name, folder, fingerprint(folder), str(error), card)
                raise
            learnware = replace(learnware, notes=(*changes, *learnware.notes))
            if (
                learnware.capability is None
            ):  # none, or one of another base model, which readers of the market must not use
                (folder / SPECIFICATION_FOLDER / CAPABILITY_FILE).unlink(missing_ok=True)
            yield Staged(learnware, load_card(folder / CARD_FILE), fingerprint(folder), folder)

    def active(self, learnware_id: str) -> Record:
        """Returns the learnware that is served under this id. Raises UnknownLearnware."""
        with journal.reading(self.root, self._timeout_s) as book:
            return self._active(book, learnware_id)

    def check_acceptable(self, staged: Staged, *, replace: bool) -> None:
        """Raises the error that `submit`, or `replace`, would raise now; changes nothing."""
        with journal.reading(self.root, self._timeout_s) as book:
            (self._replaceable if replace else self._vacant)(book, staged)

    def with_capability(self, staged: Staged, capability: Capability) -> Staged:
        """Returns a staged submission with this capability in the place of the one that it came with, if any. Its
        content changes, and so does its hash."""
        save_capability(capability, staged.folder / SPECIFICATION_FOLDER)
        learnware = check_learnware(staged.folder, self._requirements)
        return Staged(learnware, staged.card, fingerprint(staged.folder), staged.folder)

    def submit(self, staged: Staged) -> Record:
        """Adds a learnware whose id is not in the market. It is served from now on.

        Raises:
            DuplicateLearnware: the id is taken.
        """
        with self._change() as book:
            self._vacant(book, staged)
            return self._activate(book, staged)

    def replace(self, staged: Staged) -> Record:
        """Puts a new version in the place of the active one.

        Raises:
            UnknownLearnware: there is none of that id.
            InvalidLearnware: the version is not higher.
        """
        with self._change() as book:
            book.end(self._replaceable(book, staged), State.REPLACED)
            return self._activate(book, staged)

    def remove(self, learnware_id: str) -> Record:
        """Stops serving a learnware. Raises UnknownLearnware."""
        with self._change() as book:
            return book.end(self._active(book, learnware_id), State.REMOVED)

    def quarantine(self, learnware_id: str, reason: str) -> Record:
        """Stops serving a learnware and keeps its files, with the reason.

        Raises:
            UnknownLearnware: no learnware is served under this id.
            InvalidInput: the reason is empty.
        """
        if not reason.strip():
            raise InvalidInput("a learnware is put into quarantine with a reason")
        with self._change() as book:
            return book.end(self._active(book, learnware_id), State.QUARANTINED, reason)

    def refuse(self, staged: Staged, reason: str) -> Record:
        """Puts a staged submission into quarantine instead of serving it."""
        learnware = staged.learnware
        return self._refuse(learnware.id, staged.folder, staged.sha256, reason, staged.card)

    def records(self, state: State | None = State.ACTIVE) -> list[Record]:
        """Returns the records in one state, or all of them if it is None, sorted by id."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.records(state)

    def show(self, learnware_id: str) -> Record:
        """Returns the active learnware of that id, else the latest that had it. Raises UnknownLearnware."""
        with journal.reading(self.root, self._timeout_s) as book:
            found = book.active(learnware_id) or book.latest(learnware_id)
            if found is None:
                raise self._unknown(book, learnware_id)
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

    def seed(self, folder: Path, say: Say) -> None:
        """Fills a new market with the learnwares in the sub-folders of `folder`. It is done once, and continued after a
        crash.

        Raises:
            InvalidLearnware: one of them is refused.
            DuplicateLearnware: two of them have one id.
        """
        with journal.reading(self.root, self._timeout_s) as book:
            if book.fact("seeded"):
                return
            known = {record.id for record in book.records()}
        if not folder.is_dir():
            raise InvalidLearnware(f"the learnwares' folder {folder} does not exist")
        sources = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
        for first in range(0, len(sources), SEED_BATCH):
            if first:
                say(f"{first} of {len(sources)} learnwares are in the market")
            self._submit_new(sources[first : first + SEED_BATCH], known)
        with self._lock(), journal.writing(self.root, self._timeout_s) as book:
            book.set_fact("seeded", 1)
        say(f"the market in {self.root} begins with {len(self.records())} learnwares")

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
            active = {record.sha256 for record in records if record.state is State.ACTIVE}
            recent = {record.sha256 for record in records if record.changed > before}
            held = [each for each in records if each.state is State.QUARANTINED and each.sha256 is not None]
            left = sorted(self._objects.hashes() - active - recent)
            for sha in left:
                if sha in {record.sha256 for record in held}:
                    self._objects.withdraw(sha)
                else:
                    self._objects.delete(sha)
            held.sort(key=lambda record: record.number)
            for sha in self._objects.quarantined_hashes() - {record.sha256 for record in held[-QUARANTINE_KEPT:]}:
                self._objects.delete_quarantined(sha)
            return left

    def _take(self, source: str | Path, folder: Path, downloaded: Path, progress: Progress) -> None:
        if is_hub_id(str(source)):
            download(str(source), downloaded, self._limits)
            take(downloaded, folder, self._limits, progress)
            shutil.rmtree(downloaded)
        else:
            take(Path(source), folder, self._limits, progress)

    def _submit_new(self, sources: Iterable[Path], known: Container[str]) -> None:
        """Submits all of `sources` but those whose id is known: one change, so all of them or none."""
        with ExitStack() as folders:
            staged = [folders.enter_context(self.stage(source, record=False)) for source in sources]
            new = [each for each in staged if each.learnware.id not in known]
            if new:
                with self._change() as book:
                    for each in new:
                        self._vacant(book, each)
                        self._activate(book, each)

    def _activate(self, book: Journal, staged: Staged) -> Record:
        self._objects.put(staged.folder, staged.sha256)
        return book.add(
            staged.learnware.id,
            State.ACTIVE,
            version=staged.learnware.version,
            sha256=staged.sha256,
            card=staged.card,
            stamp=stamp(self._objects.folder(staged.sha256)),
        )

    def _refuse(
        self, name: str, folder: Path | None, sha256: str | None, reason: str, card: Card | None = None
    ) -> Record:
        with self._lock(), journal.writing(self.root, self._timeout_s) as book:
            if folder is not None and sha256 is not None:
                self._objects.put_in_quarantine(folder, sha256)
            version = card.version if card else 0
            return book.add(name, State.QUARANTINED, version=version, sha256=sha256, reason=reason, card=card)

    @staticmethod
    def _vacant(book: Journal, staged: Staged) -> None:
        if active := book.active(staged.learnware.id):
            raise DuplicateLearnware(
                f"learnware {active.id!r} is in the market already (version {active.version}); replace it with a "
                "higher version, or choose another id"
            )

    def _replaceable(self, book: Journal, staged: Staged) -> Record:
        active = self._active(book, staged.learnware.id)
        if staged.learnware.version <= active.version:
            raise InvalidLearnware(
                f"learnware {active.id!r} is in the market with version {active.version}; a replacement needs a "
                f"higher one in {CARD_FILE}, not {staged.learnware.version}"
            )
        return active

    def _active(self, book: Journal, learnware_id: str) -> Record:
        active = book.active(learnware_id)
        if active is None:
            raise self._unknown(book, learnware_id)
        return active

    def _unknown(self, book: Journal, learnware_id: str) -> UnknownLearnware:
        ids = [record.id for record in book.records(State.ACTIVE)]
        return UnknownLearnware(
            f"there is no learnware {learnware_id!r} in the market{did_you_mean(learnware_id, ids)}"
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


def _readable_card(folder: Path) -> Card | None:
    try:
        return load_card(folder / CARD_FILE)
    except InvalidLearnware:
        return None
