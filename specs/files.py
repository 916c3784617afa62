"""Files that are whole whenever a process or the machine is cut, and locks that the system drops with their holder."""

import os
import secrets
from pathlib import Path

from filelock import FileLock, lock_descriptor

POLL_S = 0.02
"""Time between two tries for a lock that another process holds, seconds."""


def write_atomically(path: Path, content: bytes, temporary: Path | None = None) -> None:
    """Replaces a file: after a cut it is the old one or the new one, whole. The new content is on the disk when this
    returns; its name is once the folder is synchronised too (`sync`).

    `temporary`, beside `path`, is written first (default: a name that no other writer has). A caller that is the only
    writer names one, so that what a killed writer left there is overwritten.
    """
    temporary = temporary or path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_lock(path: Path) -> FileLock:
    """A lock on the file `path`, which is made if absent and stays. Locks of one file exclude each other whether they
    are in one process or in several, and `acquire(timeout)` raises `filelock.Timeout`.

    On a file system without `flock`, acquiring raises OSError: the library would take the file's existence for a lock,
    which outlives a killed process.
    """
    return FileLock(path, poll_interval=POLL_S, thread_local=False, fallback_to_soft=False)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock on `path`. Makes no file where there is none."""
    try:
        with path.open("r+b") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return False
