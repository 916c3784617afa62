"""Learnware folders, each named by the hash of its content: written once, never changed.

objects/<sha256>/       learnwares that are served, or lately were
quarantine/<sha256>/    submissions that failed a check, and learnwares that were withdrawn: kept to be looked at
incoming/<random>/      submissions on their way; `<random>.lock` is held by the process that works on one
"""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


class ObjectStore:
    """The three folders below the market's root. It does not know which records refer to an object."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._quarantine = root / "quarantine"
        self._incoming = root / "incoming"
        for folder in (self._objects, self._quarantine, self._incoming):
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
        with _held_lock(lock_path):
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                lock_path.unlink(missing_ok=True)

    def leftovers(self) -> list[str]:
        """Returns the names in `incoming` that no living process works on."""
        found = []
        for path in sorted(self._incoming.iterdir()):
            try:
                with path.with_suffix(".lock").open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            except FileNotFoundError:
                pass
            found.append(path.name)
        return found

    def sweep(self) -> None:
        """Removes what killed processes left in `incoming`. Call it under the market's lock."""
        for path in sorted(self._incoming.iterdir()):
            lock_path = path.with_suffix(".lock")
            try:
                with lock_path.open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    lock_path.unlink(missing_ok=True)
            except BlockingIOError:
                continue  # somebody works on it
            except FileNotFoundError:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

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
            _sync(target.parent)
            _sync(source.parent)

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
            _sync(path)
        for path in folder.rglob("*"):
            if path.is_dir():
                _sync(path)
        _sync(folder)
        folder.rename(target)
        _sync(target.parent)

    def _discard(self, folder: Path) -> None:
        """Takes a folder out of sight at once by a rename, then removes it piece by piece."""
        rubbish = self._incoming / secrets.token_hex(8)
        folder.rename(rubbish)
        shutil.rmtree(rubbish, ignore_errors=True)


def _held_lock(path: Path) -> IO[str]:
    """Makes a new lock file and holds it. One that a sweep took and removed before it was held is made again."""
    while True:
        lock = path.open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
            return lock
        lock.close()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
