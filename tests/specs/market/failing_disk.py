"""A disk that is full from some write on: every place where the market writes asks it first."""

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

_WRITES = ("INSERT", "UPDATE", "BEGIN", "CREATE")


class Disk:
    """Counts writes; those from number `full_at` on fail while `lasting`, else that one alone. None: none fails."""

    def __init__(self) -> None:
        self.full_at: int | None = None
        self.lasting = True
        self.writes = 0

    def write(self, *, sqlite: bool = False) -> None:
        number, self.writes = self.writes, self.writes + 1
        if self.full_at is None or number < self.full_at or (number > self.full_at and not self.lasting):
            return
        if sqlite:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(self, at: int | None, *, lasting: bool = True) -> None:
        self.full_at, self.lasting, self.writes = at, lasting, 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
            if sql.startswith(_WRITES):
                disk.write(sqlite=True)
            return super().execute(sql, *values)

        def commit(self) -> None:
            if self.in_transaction:
                disk.write(sqlite=True)
            super().commit()

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return _connect(*arguments, factory=Connection, **options)

    _connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, _asking(disk, getattr(owner, name)))
    monkeypatch.setattr(Path, "open", _opening(disk, Path.open))
    return disk


def _asking(disk: Disk, real: Any) -> Any:
    def ask(*arguments: Any, **options: Any) -> Any:
        disk.write()
        return real(*arguments, **options)

    return ask


def _opening(disk: Disk, real: Any) -> Any:
    def ask(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wxa"):
            disk.write()
        return real(path, mode, *arguments, **options)

    return ask
