"""The published catalogue: one small file that says which version of which learnware is served.

The market writes it after each change (`specs.market.store`), by atomic rename; routers and engine replicas only read
it, so a read-only shared folder is all that they need.

    {"format": 1, "sequence": 7, "unserved": {"unfit": 1}, "learnwares": [
    {"id": …, "version": …, "sha256": …, "folder": "objects/<sha256>"},
    {"id": "…@canary", …, "canary": 0.05},
    …
    ]}

An entry with `canary` is a new version of a learnware, which answers that share of its requests (`specs.canary`). One
entry a line, so that a reader parses only the lines that are new since its last read: at 10,000 learnwares a
whole parse would keep a router's requests waiting.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.engine_name import engine_name
from specs.errors import InvalidInput
from specs.files import write_atomically
from specs.market.checks import Requirements
from specs.market.fitness import Unserved, examine

logger = logging.getLogger("ray.serve")

CATALOGUE_FILE = "catalogue.json"
"""File name of the published catalogue in the market's folder."""
_MARKED_BYTES = 1 << 16
"""Bytes at the beginning of each file of a plain folder that its learnware's hash covers: the headers of weights."""
FORMAT = 1
"""Number of the file's format; a file that names none has this one."""
_END = b"]}\n"
"""Last line of a catalogue that `write_catalogue` wrote."""


class Entry(NamedTuple):
    """One served learnware; the engine loads it from `folder`."""

    id: str
    version: int
    sha256: str
    folder: Path
    canary: float | None = None
    """The share of its learnware's requests that a canary answers; None for a learnware."""

    @property
    def engine_name(self) -> str:
        """The name under which vLLM knows this version (`specs.engine_name`)."""
        return engine_name(self.id, self.sha256)


class Catalogue(NamedTuple):
    """The learnwares and canaries that are served since change number `sequence`, and the number of those that the
    market has and does not serve, by the reason's kind (`specs.market.journal.Journal.unserved`, or
    `specs.market.fitness` for a plain folder)."""

    sequence: int
    entries: tuple[Entry, ...]
    unserved: Mapping[str, int] = {}


def read_catalogue(root: Path) -> Catalogue:
    """Returns the market's published catalogue.

    Raises:
        InvalidInput: there is none, or it cannot be read.
    """
    return CatalogueReader(root).read()


class CatalogueReader:
    """Reads the catalogue again and again. Lines that stand unchanged before the first and after the last changed one
    are not parsed again: their entries are the very objects of the catalogue read before."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lines = b""
        self._entries: tuple[Entry, ...] = ()

    def read(self) -> Catalogue:
        """Returns the published catalogue. Raises InvalidInput, as `read_catalogue`."""
        path = self._root / CATALOGUE_FILE
        try:
            text = path.read_bytes()
            head, _, lines = text.partition(b"\n")
            if lines.endswith(_END):
                content, entries = json.loads(head + _END), self._parsed(lines)
            else:  # the same JSON in another layout
                content, lines = json.loads(text), b""
                entries = tuple(self._entry(each) for each in content["learnwares"])
            catalogue = Catalogue(_checked_sequence(content), entries, dict(content.get("unserved", {})))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput(f"the market's catalogue {path} cannot be read: {error!r}") from None
        self._lines, self._entries = lines, entries
        return catalogue

    def _parsed(self, lines: bytes) -> tuple[Entry, ...]:
        before, after = _common_lines(self._lines, lines)
        kept_before = lines.count(b"\n", 0, before)
        kept_after = lines.count(b"\n", len(lines) - after) - 1 if after else 0  # the last line is no entry
        changed = lines[before : len(lines) - after].removesuffix(_END).rstrip(b",\n")
        new = tuple(self._entry(each) for each in json.loads(b"[" + changed + b"]"))
        return self._entries[:kept_before] + new + self._entries[len(self._entries) - kept_after :]

    def _entry(self, entry: dict[str, Any]) -> Entry:
        learnware_id, version, sha256 = entry["id"], entry["version"], entry["sha256"]
        if not isinstance(learnware_id, str) or type(version) is not int or not isinstance(sha256, str):
            raise ValueError(f"{learnware_id!r} has no id, version and hash of a learnware")
        share = entry.get("canary")
        if share is not None and (type(share) is not float or not 0 < share < 1):
            raise ValueError(f"{learnware_id!r} is no canary with a share of {share!r}")
        return Entry(learnware_id, version, sha256, self._root / entry["folder"], share)


def _checked_sequence(content: dict[str, Any]) -> int:
    if (found := content.get("format", FORMAT)) != FORMAT:
        raise ValueError(f"its format is {found!r}; this version reads {FORMAT}")
    sequence = content["sequence"]
    if type(sequence) is not int or sequence < 0:
        raise ValueError(f"its sequence is {sequence!r}, which is no number of a change")
    return sequence


def _common_lines(old: bytes, new: bytes) -> tuple[int, int]:
    """Returns how many bytes of whole lines two texts share at their beginning, and how many of the rest at their
    end."""
    length = min(len(old), len(new))
    first, second = np.frombuffer(old, np.uint8, length), np.frombuffer(new, np.uint8, length)
    before = new.rfind(b"\n", 0, _first_true(first != second)) + 1
    length -= before
    first = np.frombuffer(old, np.uint8, length, len(old) - length)
    second = np.frombuffer(new, np.uint8, length, len(new) - length)
    after = _first_true((first != second)[::-1])
    starts = [len(text) - after for text in (old, new)]
    if all(text[start - 1 : start] in (b"", b"\n") for text, start in zip((old, new), starts, strict=True)):
        return before, after
    first_whole = new.find(b"\n", starts[1]) + 1
    return before, len(new) - first_whole if first_whole else 0


def _first_true(values: NDArray[np.bool_]) -> int:
    """Returns the position of the first true value, or the length when there is none."""
    return int(values.argmax()) if values.any() else len(values)


def write_catalogue(root: Path, catalogue: Catalogue) -> None:
    """Replaces the published catalogue at once: a reader sees the old one or the new one, and so does the next start
    after a crash."""
    above = f"{root}/"
    lines = [
        json.dumps(
            {
                "id": entry.id,
                "version": entry.version,
                "sha256": entry.sha256,
                "folder": str(entry.folder).removeprefix(above),
            }
            | ({} if entry.canary is None else {"canary": entry.canary}),
            separators=(",", ":"),
        )
        for entry in catalogue.entries
    ]
    path = root / CATALOGUE_FILE
    unserved = json.dumps(dict(catalogue.unserved), separators=(",", ":"))
    head = f'{{"format":{FORMAT},"sequence":{catalogue.sequence},"unserved":{unserved},"learnwares":[\n'
    text = head + ",\n".join(lines) + ("\n]}\n" if lines else "]}\n")
    write_atomically(path, text.encode(), temporary=path.with_suffix(".new"))


def static_catalogue(folder: Path, requirements: Requirements | None = None) -> Catalogue:
    """Returns the learnwares of a plain folder (one sub-folder each) in the form of a catalogue that never changes.
    Those that are broken, unfit or have an id that is taken are left out, with the reason in the log. Weights are read
    by their headers alone: the engine checks their values when it loads them.

    Raises:
        InvalidLearnware: there is no such folder.
    """
    entries, counts = [], Counter[str]()
    for found in examine(folder, requirements or Requirements()):
        if isinstance(found, Unserved):
            logger.warning("not served: %s", found.reason)
            counts[found.kind] += 1
        else:
            entries.append(Entry(found.id, found.version, _mark(found.folder), found.folder))
    return Catalogue(0, tuple(sorted(entries)), dict(counts))


def _mark(folder: Path) -> str:
    """Returns a hash of the names, sizes and beginnings of a folder's files, which every node works out alike. It
    stands for the content of a folder that never changes, without a whole read."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
            digest.update(file.read(_MARKED_BYTES))
    return digest.hexdigest()


class CatalogueWatch:
    """Tells when the published catalogue has changed. Each look costs one `stat`; the file is read only after a
    change."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reader = CatalogueReader(root)
        self._seen: tuple[int, int, int] | None = None
        self.fault: str | None = None
        """Reason why the file could not be read at the last look; None when it could."""

    def changed(self) -> Catalogue | None:
        """Returns the catalogue if it is another file than at the last look, else None. Returns None also while it
        cannot be read (`fault` says why then), and looks again the next time."""
        try:
            found = (self._root / CATALOGUE_FILE).stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark == self._seen:
                self.fault = None
                return None
            catalogue = self._reader.read()
        except (OSError, InvalidInput) as error:
            self.fault = str(error)
            return None
        self._seen, self.fault = mark, None
        return catalogue
