"""The files of a zip that may be taken, and bounds on what a hostile zip costs."""

import io
import stat
import zipfile
from functools import partial
from pathlib import PurePosixPath
from typing import IO

from specs.errors import InvalidLearnware
from specs.market.submission import ENTRIES, Item, Limits, is_unseen

_RATIO_MATTERS_BYTES = 1 << 20
"""Size in bytes up to which a zip's entry may shrink by any ratio: it cannot become large."""
_DIRECTORY_BYTES = 4 << 20
"""The most bytes of a zip's directory: 10,000 entries with names of 300 bytes. `zipfile` makes some 500 bytes of
objects out of each of an entry's 50."""
_NAME_LENGTH = 1024
"""The most characters of the name of a zip's entry."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods of a zip that are read."""
_ENCRYPTED = 0x1
"""Bit of a zip's entry flags that says that it is encrypted."""


class Bounded(io.RawIOBase):
    """A seekable file that refuses to read more at once than the largest directory of a zip: `zipfile` reads a zip's
    whole directory, however many entries it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        """Reads up to `size` bytes."""
        if size is not None and size > _DIRECTORY_BYTES:
            raise InvalidLearnware(f"the zip holds more than {ENTRIES} entries")
        return self._file.read(_DIRECTORY_BYTES if size is None or size < 0 else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to another place, as every file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Returns the present place."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Says that it can seek."""
        return True

    def readable(self) -> bool:
        """Says that it can be read."""
        return True


def zip_items(archive: zipfile.ZipFile, limits: Limits) -> dict[str, Item]:
    """Returns the files of a zip by name. A folder that is not looked into counts as one.

    Raises:
        InvalidLearnware: a name leads out of the zip, is there twice or has no end; an entry is a link; there are too
            many.
    """
    entries = archive.infolist()
    if len(entries) > ENTRIES:
        raise InvalidLearnware(f"the zip holds more than {ENTRIES} entries")
    items: dict[str, Item] = {}
    seen: set[str] = set()
    for entry in entries:
        _check_place(entry)
        if entry.is_dir():
            continue
        name = PurePosixPath(entry.filename).as_posix()
        if name.casefold() in seen:
            raise InvalidLearnware(f"the zip holds {name} twice")
        seen.add(name.casefold())
        parts = PurePosixPath(name).parts
        unseen = next((at for at, part in enumerate(parts) if is_unseen(part)), None)
        if unseen is not None:  # named as a folder's are, whose inside is not looked at
            name = "/".join(parts[: unseen + 1])
            items.setdefault(name, Item(0, partial(archive.open, entry), f"{name} is never read"))
        else:
            items[name] = Item(entry.file_size, partial(archive.open, entry), _entry_fault(entry, limits))
    return items


def _check_place(entry: zipfile.ZipInfo) -> None:
    """Refuses an entry that no honest tool packs, whether it would be taken or not."""
    name = entry.filename
    parts = PurePosixPath(name).parts
    # orig_filename: zipfile itself cuts a name at its first NUL and turns the system's separators into slashes
    if name.startswith("/") or ".." in parts or any(mark in entry.orig_filename for mark in "\\:\0"):
        raise InvalidLearnware(f"the zip's entry {entry.orig_filename!r} leads out of the learnware's folder")
    if len(name) > _NAME_LENGTH:
        raise InvalidLearnware(f"the zip's entry {name[:40]!r}… has a name of more than {_NAME_LENGTH} characters")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not entry.is_dir() and kind not in (0, stat.S_IFREG):
        raise InvalidLearnware(f"the zip's entry {name!r} is a symbolic link or another special file")


def _entry_fault(entry: zipfile.ZipInfo, limits: Limits) -> str | None:
    """Says why an entry is not unpacked, if it is not."""
    if entry.flag_bits & _ENCRYPTED:
        return f"the zip's entry {entry.filename!r} is encrypted"
    if entry.compress_type not in _METHODS:
        return f"the zip's entry {entry.filename!r} is neither stored nor deflated"
    if entry.file_size > _RATIO_MATTERS_BYTES and entry.file_size > limits.ratio * entry.compress_size:
        return f"the zip's entry {entry.filename!r} unpacks to more than {limits.ratio:g} times its compressed size"
    return None
