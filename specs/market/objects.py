"""Learnware folders, each named by the hash of its content: written once, never changed.

objects/<sha256>/       learnwares that are served, or lately were
quarantine/<sha256>/    submissions that failed a check, and learnwares that were withdrawn: kept to be looked at
incoming/<random>/      submissions on their way; `<random>.lock` is held by the process that works on one
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from specs.files import file_lock, is_held, sync

_CHUNK = 1 << 20
"""Bytes that are read at a time."""


def fingerprint(folder: Path) -> str:
    """Returns SHA-256 (hexadecimal) over the names, sizes and contents of all files, in the order of their names."""
    digest = hashlib.sha256()
    for path in _files(folder):
        name = path.relative_to(folder).as_posix().encode()
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(b"%d %d %s\n" % (len(name), size, name))
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def stamp(folder: Path) -> str:
    """Returns a hash of all files' names, sizes and times: it changes when a file of an object is written to, added or
    removed, and no file is read. A folder that is missing has the stamp of an empty one."""
    digest = hashlib.sha256()
    for path in _files(folder):
        found = path.stat()
        digest.update(f"{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def size(folder: Path) -> int:
    """Returns the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in _files(folder))


class ObjectStore:
    """The three folders below the market's root. It does not know which records refer to an object."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._quarantine = root / "quarantine"
        self._incoming = root / "incoming"
        for folder in (self._objects, self._quarantine, self._incoming):
            if not folder.is_dir():  # a disk that cannot be written can be read
                folder.mkdir(parents=True, exist_ok=True)

    def folder(self, sha256: str) -> Path:
        """Returns the place of an object, whether it is there or not."""
        return self._objects / sha256

    def quarantined(self, sha256: str) -> Path:
        """Returns the place of an object in quarantine, whether it is there or not."""
        return self._quarantine / sha256

    def hashes(self) -> set[str]:
        """Returns the hashes of all objects that are there, whole or not."""
        return {path.name for path in self._objects.iterdir()}

    def quarantined_hashes(self) -> set[str]:
        """Returns the hashes of all objects in quarantine."""
        return {path.name for path in self._quarantine.iterdir()}

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """Yields an empty folder for one submission, gone at the end unless it was moved away. The lock beside it dies
        with the process, so that `sweep` can tell what a killed one left."""
        folder = self._incoming / secrets.token_hex(8)
        lock_path = folder.with_suffix(".lock")
        with file_lock(lock_path):  # one that a sweep removed before it was held is made again
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock_path.unlink(missing_ok=True)

    def leftovers(self) -> list[str]:
        """Returns the names in `incoming` that no living process works on."""
        return [path.name for path in sorted(self._incoming.iterdir()) if not is_held(path.with_suffix(".lock"))]

    def sweep(self) -> None:
        """Removes what killed processes left in `incoming`. Call it under the market's lock."""
        for folder in {path.with_suffix("") for path in self._incoming.iterdir()}:
            lock_path = folder.with_suffix(".lock")
            with suppress(Timeout), file_lock(lock_path).acquire(timeout=0):  # else somebody works on it
                shutil.rmtree(folder, ignore_errors=True)
                lock_path.unlink(missing_ok=True)

    def put(self, folder: Path, sha256: str) -> None:
        """Moves a folder of this hash in; does nothing where the same content is. Durable when it returns."""
        self._move(folder, self.folder(sha256), sha256)

    def put_in_quarantine(self, folder: Path, sha256: str) -> None:
        """Moves a folder of this hash into quarantine, as `put` does into the store."""
        self._move(folder, self.quarantined(sha256), sha256)

    def withdraw(self, sha256: str) -> None:
        """Moves an object into quarantine, in the place of what lay there under its hash."""
        source, target = self.folder(sha256), self.quarantined(sha256)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            source.rename(target)
            sync(target.parent)
            sync(source.parent)

    def restore(self, sha256: str) -> None:
        """Moves an object out of quarantine, unless it is in the store already."""
        source, target = self.quarantined(sha256), self.folder(sha256)
        if source.is_dir() and not target.is_dir():
            source.rename(target)
            sync(target.parent)
            sync(source.parent)

    def delete(self, sha256: str) -> None:
        """Removes an object. If it is cut short, the object has left the store already."""
        source = self.folder(sha256)
        if source.is_dir():
            self._discard(source)

    def delete_quarantined(self, sha256: str) -> None:
        """Removes an object from quarantine."""
        source = self.quarantined(sha256)
        if source.is_dir():
            self._discard(source)

    def _move(self, folder: Path, target: Path, sha256: str) -> None:
        if target.is_dir():
            if fingerprint(target) == sha256:
                return
            self._discard(target)
        for path in _files(folder):
            path.chmod(0o444)
            sync(path)
        for path in folder.rglob("*"):
            if path.is_dir():
                sync(path)
        sync(folder)
        folder.rename(target)
        sync(target.parent)

    def _discard(self, folder: Path) -> None:
        """Takes a folder out of sight at once by a rename, then removes it piece by piece."""
        rubbish = self._incoming / secrets.token_hex(8)
        folder.rename(rubbish)
        shutil.rmtree(rubbish, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
