"""Keeps the published catalogue equal to the journal: the journal is the truth, the catalogue a projection of it.

A change is made when its transaction is. Publishing comes after it and may fail, on a full disk for one: the change
stays made, and the catalogue is brought up to date as soon as it can be, after whatever change or time. The same look
mends a catalogue that somebody else harmed.
"""

import logging
from pathlib import Path

from specs.errors import InvalidInput
from specs.market.catalogue import CATALOGUE_FILE, Catalogue, read_catalogue, write_catalogue
from specs.market.writing import reason_of

logger = logging.getLogger("ray.serve")


class Publisher:
    """Writes the catalogue of the market in `root`. The caller holds the market's lock."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._verified: tuple[int, tuple[int, int, int] | None] | None = None
        self.failure: str | None = None
        """Reason why the published catalogue is behind the journal; None while it is not."""

    def publish(self, catalogue: Catalogue) -> bool:
        """Writes the catalogue and returns whether it is published. Raises nothing that a disk does."""
        try:
            write_catalogue(self._root, catalogue)
        except OSError as error:
            if self.failure is None:
                logger.error("change %d of the market cannot be published: %s", catalogue.sequence, reason_of(error))
            self.failure = reason_of(error)
            return False
        if self.failure is not None:
            logger.info("change %d of the market is published", catalogue.sequence)
        self._verified, self.failure = (catalogue.sequence, self._mark()), None
        return True

    def is_current(self, sequence: int) -> bool:
        """Whether the file is the very one that was last found right, and the journal has not gone on since."""
        mark = self._mark()
        return mark is not None and self._verified == (sequence, mark)

    def reconcile(self, catalogue: Catalogue) -> bool:
        """Publishes the journal's catalogue unless the published one is equal. Returns whether it is published."""
        mark = self._mark()
        try:
            if read_catalogue(self._root) == catalogue:
                self._verified, self.failure = (catalogue.sequence, mark), None
                return True
        except InvalidInput as error:
            if mark is not None:  # a new market has none
                logger.warning("%s; it is written anew from the journal", error)
        return self.publish(catalogue)

    def _mark(self) -> tuple[int, int, int] | None:
        try:
            found = (self._root / CATALOGUE_FILE).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
