"""A submission on its way: taken in and checked, and not served yet."""

from pathlib import Path
from typing import NamedTuple

from specs.card import Card
from specs.learnware import Learnware
from specs.market.catalogue import Entry


class Staged(NamedTuple):
    """A submission that passed every check and is not served yet; `folder` holds its files as long as it is staged.
    `origin` is the hash of the files as they came; `unfit` says why it does not fit today's configuration, None if it
    does; `notes` are sentences that refuse nothing and are kept with it."""

    learnware: Learnware
    card: Card
    sha256: str
    folder: Path
    origin: str
    unfit: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def entry(self) -> Entry:
        """The submission as an entry of a catalogue."""
        return Entry(self.learnware.id, self.learnware.version, self.sha256, self.folder)
