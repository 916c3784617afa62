"""Tells errors of the disk that the market lies on from errors of what is written to it."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from specs.errors import MarketUnwritable

MARKET = "the market's folder"
"""Name of the market's folder in messages, which do not say where it lies."""
_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM})
"""Numbers of errors that say that a file system is full, not to be written, or broken."""
_SQLITE = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
)
"""SQLite's primary result codes of the same."""


def is_unwritable(error: BaseException) -> bool:
    """Whether an error says that the disk is full or cannot be written."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE
    return isinstance(error, OSError) and error.errno in _ERRNOS


def reason_of(error: BaseException) -> str:
    """Returns such an error's reason in a few words."""
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


@contextmanager
def unwritable_as_error(place: str) -> Iterator[None]:
    """Raises MarketUnwritable in the place of what a full or unwritable disk raises; `place` names the folder in its
    message."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not is_unwritable(error):
            raise
        raise MarketUnwritable(
            f"{place} cannot be written ({reason_of(error)}): nothing was changed, and what is served is served on; "
            "make room or mend the disk, then try again"
        ) from error
