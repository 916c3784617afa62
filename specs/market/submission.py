"""Parts of a submission that are read alike from a folder, a zip and a remote place."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, NamedTuple

ENTRIES = 10_000
"""The most files of a submission that are looked at, taken or not."""
_UNSEEN = frozenset({"__MACOSX", "__pycache__"})
"""Folders that are not looked into, beside those whose name begins with a dot."""


class Limits(NamedTuple):
    """Bounds of what is taken of one submission. What is left out does not count."""

    files: int = 32
    """The most files."""
    bytes: int = 1 << 30
    """The most bytes of all files together, uncompressed."""
    ratio: float = 100.0
    """The largest ratio of uncompressed to compressed size of a zip's entry over 1 MiB. Weights shrink by a tenth;
    deflate reaches 1032."""


class Item(NamedTuple):
    """One file of a submission that may be taken: its size in bytes (None: unknown before it is read), how it is
    opened, and why it cannot be, if it cannot."""

    size: int | None
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    fault: str | None = None


def is_unseen(name: str) -> bool:
    """Whether a folder of this name is not looked into: a hidden one, or a tool's own."""
    return name.startswith(".") or name in _UNSEEN
