"""A market as it can be read without its lock: its records, and the places of their files."""

from pathlib import Path

from specs.canary import canary_id
from specs.market import journal
from specs.market.acceptance import holder, unknown
from specs.market.journal import Record, State
from specs.market.objects import ObjectStore
from specs.market.search import search


class MarketView:
    """The market in folder `root`, to be read. Safe to use from several threads and processes."""

    def __init__(self, root: Path, objects: ObjectStore, timeout_s: float) -> None:
        """Makes the view; each read raises MarketBusy if the journal stays locked for `timeout_s` seconds."""
        self.root = root
        self._objects = objects
        self._timeout_s = timeout_s

    @property
    def sequence(self) -> int:
        """Number of the last change."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.fact("sequence")

    @property
    def seeded(self) -> bool:
        """Whether the market has been filled (`specs.market.seeding`)."""
        with journal.reading(self.root, self._timeout_s) as book:
            return bool(book.fact("seeded"))

    def active(self, learnware_id: str) -> Record:
        """Returns the learnware that holds this id: it is served, or unfit. Raises UnknownLearnware."""
        with journal.reading(self.root, self._timeout_s) as book:
            return holder(book, learnware_id)

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
        """Returns the records in one state, or all of them if it is None, sorted by id; canaries are among them."""
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
        """Returns active learnwares whose card holds every word of `text`, the best match first; all if it is empty.
        Canaries are not among them."""
        learnwares = [record for record in self.records() if record.share is None]
        return search(learnwares, text, domain=domain, task=task, language=language)

    def folder(self, record: Record) -> Path | None:
        """Returns the place of a record's files, or None if they are kept no more."""
        if record.sha256 is None:
            return None
        places = (self._objects.folder(record.sha256), self._objects.quarantined(record.sha256))
        return next((place for place in places if place.is_dir()), None)

    def highest_version(self, learnware_id: str) -> int | None:
        """Returns the highest version that was ever served under this id, or as its canary; None if none was."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.highest_version(learnware_id)

    def canaries(self) -> list[Record]:
        """Returns the records of the canaries that run, or wait until they fit the configuration, sorted by id."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.canaries()

    def canary(self, learnware_id: str) -> Record | None:
        """Returns the record of a learnware's canary, or None."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.active(canary_id(learnware_id))

    def past_canaries(self, learnware_id: str) -> list[Record]:
        """Returns the records of a learnware's canaries that are over, the oldest first."""
        with journal.reading(self.root, self._timeout_s) as book:
            return book.ended(canary_id(learnware_id))
