"""The published catalogue: one small file that says which version of which learnware is served.

The market writes it after each change (`specs.market.store`), by atomic rename; routers and engine replicas only read
it, so a read-only shared folder is all that they need.

    {"sequence": 7, "learnwares": [{"id": …, "version": …, "sha256": …, "folder": "objects/<sha256>"}]}
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from specs.errors import InvalidInput
from specs.learnware import load_learnwares
from specs.market.objects import fingerprint

CATALOGUE_FILE = "catalogue.json"


class Entry(NamedTuple):
    """One served learnware; `folder` is what the engine loads it from."""

    id: str
    version: int
    sha256: str
    folder: Path

    @property
    def internal_name(self) -> str:
        """The engine's own name for these very weights: whatever the engine keeps by name, such as its prefix cache,
        can never mix two versions."""
        return f"{self.id}@{self.sha256[:12]}"


class Catalogue(NamedTuple):
    """What is served since change number `sequence`."""

    sequence: int
    entries: tuple[Entry, ...]


def read_catalogue(root: Path) -> Catalogue:
    """The market's published catalogue.

    Raises:
        InvalidInput: there is none, or it cannot be read.
    """
    path = root / CATALOGUE_FILE
    try:
        content = json.loads(path.read_bytes())
        entries = tuple(
            Entry(entry["id"], entry["version"], entry["sha256"], root / entry["folder"])
            for entry in content["learnwares"]
        )
        return Catalogue(content["sequence"], entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"the market's catalogue {path} cannot be read: {error!r}") from None


def write_catalogue(root: Path, catalogue: Catalogue) -> None:
    """Replaces the published catalogue at once: a reader sees the old one or the new one, and so does the next start
    after a crash."""
    content = {
        "sequence": catalogue.sequence,
        "learnwares": [
            {
                "id": entry.id,
                "version": entry.version,
                "sha256": entry.sha256,
                "folder": entry.folder.relative_to(root).as_posix(),
            }
            for entry in catalogue.entries
        ],
    }
    path = root / CATALOGUE_FILE
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def static_catalogue(folder: Path) -> Catalogue:
    """The learnwares of a plain folder (one sub-folder each) in the form of a catalogue that never changes.

    Raises:
        InvalidLearnware, DuplicateLearnware: as `load_learnwares`.
    """
    learnwares = load_learnwares(folder)
    entries = (Entry(each.id, each.version, fingerprint(each.folder), each.folder) for each in learnwares)
    return Catalogue(0, tuple(entries))


def current_catalogue(market: Path | None, folder: Path) -> Catalogue:
    """What a start finds: the market's catalogue, or without a market the plain folder's.

    Raises:
        InvalidInput: as `read_catalogue`. InvalidLearnware, DuplicateLearnware: as `static_catalogue`.
    """
    return static_catalogue(folder) if market is None else read_catalogue(market)


class CatalogueWatch:
    """Tells when the published catalogue has changed: one `stat` a look, a read only then."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> Catalogue | None:
        """The catalogue, if it is another file than at the last look; None also while it cannot be read (it is looked
        at again)."""
        try:
            found = (self._root / CATALOGUE_FILE).stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark == self._seen:
                return None
            catalogue = read_catalogue(self._root)
        except (OSError, InvalidInput):
            return None
        self._seen = mark
        return catalogue
