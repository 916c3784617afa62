"""The store of uploaded task specifications: a folder in the market's, with one file for each, named by its content.

    tasks/<id>.spec              a specification; it is there whole or not at all, and never changes. The time of its
                                 last change is that of its last post or use, to within `TOUCH_EVERY_S`
    tasks/owners/<name>/<id>     an empty file: the tenant of this name has posted it

Every router replica reads the folder as it is when a request comes, so all of them know an upload or a removal at once,
also after a restart. Several tenants may own one specification; it goes when the last of them removes it, or when
nobody has posted or used it for as long as the store keeps any. One without an owner, such as an earlier version kept,
is nobody's to remove, and goes in the same way.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from specs.errors import StoreFull, TaskQuotaReached
from specs.files import sync, write_atomically
from specs.task import (
    TASK_ID,
    TASK_PREFIX,
    TaskSpecification,
    dump_task_specification,
    load_task_specification,
    task_id,
)

FOLDER = "tasks"
"""Name of the folder of task specifications inside the market's."""
OWNERS = "owners"
"""Name of the folder, inside that one, that says whose they are."""
MAX_TASKS = 10_000
"""The most task specifications that are kept, about 40 MB: everybody with an API key may upload."""
REMEMBERED = 1024
"""Task specifications that are kept in memory, about 4 kB each: a request for one of them costs one look at the
folder."""
TOUCH_EVERY_S = 3600.0
"""Seconds after which a use is noted again: noting each one would write to the disk at every request."""


class TaskStore:
    """The task specifications of the market in folder `market`. Safe to use from several threads; of several processes,
    one posts and removes."""

    def __init__(
        self,
        market: Path,
        max_tasks: int = MAX_TASKS,
        *,
        max_owned: int | None = None,
        keep_s: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens the store, which need not be there yet.

        Args:
            market: the market's folder.
            max_tasks: the most specifications that are kept.
            max_owned: the most that one owner may have; None sets no limit.
            keep_s: seconds since the last post or use after which one goes; None keeps all.
            clock: seconds since 1970.
        """
        self._folder = market / FOLDER
        self._max_tasks = max_tasks
        self._max_owned = max_owned
        self._keep_s = keep_s
        self._clock = clock
        self._changing = threading.Lock()
        self._read = lru_cache(REMEMBERED)(_read)

    def put(self, specification: TaskSpecification, owner: str | None = None, *, unbounded: bool = False) -> str:
        """Keeps a specification for `owner`, a name that is good as a file's, and returns its id. Putting it twice is
        harmless. What is expired goes first. `unbounded` passes over the owner's quota.

        Raises:
            TaskQuotaReached: the owner has `max_owned` others already.
            StoreFull: there are `max_tasks` others already.
        """
        name = task_id(specification)
        path = self._path(name)
        with self._changing:
            self._folder.mkdir(parents=True, exist_ok=True)
            kept = self._remove_expired()
            mark = None if owner is None else self._mark(owner, name)
            if mark is not None and not mark.exists():
                if not unbounded:
                    self._check_quota(mark.parent)
                mark.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._touch(path)
            elif kept >= self._max_tasks:
                raise StoreFull(
                    f"{self._max_tasks:,} task specifications are kept already: remove one that is not needed any more "
                    "(DELETE /v1/task-specs/<id>), or wait until one expires"
                )
            else:
                write_atomically(path, dump_task_specification(specification))
                sync(self._folder)
            if mark is not None:
                mark.touch()
                sync(mark.parent)
        return name

    def find(self, name: str) -> TaskSpecification | None:
        """Returns the specification of this id, or None when there is none, it is expired, or `name` is no id. To look
        it up is to use it.

        Raises:
            InvalidSpecification: its file is damaged, or was made with another encoder than this version's.
        """
        if not TASK_ID.fullmatch(name):
            return None
        path = self._path(name)
        try:
            used = path.stat().st_mtime
            if self._is_expired(used):
                return None
            if self._clock() - used > TOUCH_EVERY_S:
                self._touch(path)
            return self._read(path)
        except FileNotFoundError:  # never there, or removed just now
            return None

    def is_owner(self, name: str, owner: str) -> bool:
        """Returns whether `owner` has posted the specification of this id."""
        return TASK_ID.fullmatch(name) is not None and self._mark(owner, name).exists()

    def has_owner(self, name: str) -> bool:
        """Returns whether anybody has posted the specification of this id, to a version that notes it."""
        return TASK_ID.fullmatch(name) is not None and bool(self._marks(name))

    def remove(self, name: str, owner: str | None = None) -> bool:
        """Removes a specification as far as it is `owner`'s, and altogether when it is nobody else's; None removes it
        altogether. Returns whether it was there, and theirs."""
        if not TASK_ID.fullmatch(name):
            return False
        with self._changing:
            if owner is not None:
                mark = self._mark(owner, name)
                if not mark.exists():
                    return False
                mark.unlink()
                sync(mark.parent)
                if self._marks(name):
                    return True
            return self._remove(name)

    def _remove(self, name: str) -> bool:
        for mark in self._marks(name):
            mark.unlink(missing_ok=True)
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        sync(self._folder)
        return True

    def _remove_expired(self) -> int:
        """Removes what is expired, and returns the number of those that stay."""
        kept = 0
        for path in self._folder.glob("*.spec"):
            with suppress(FileNotFoundError):
                if self._is_expired(path.stat().st_mtime):
                    self._remove(f"{TASK_PREFIX}{path.stem}")
                else:
                    kept += 1
        return kept

    def _check_quota(self, owned: Path) -> None:
        """Raises TaskQuotaReached when the folder of an owner's marks is full of such as stand for something."""
        if self._max_owned is None:
            return
        count = 0
        for mark in owned.glob("*"):
            if self._path(f"{TASK_PREFIX}{mark.name}").exists():
                count += 1
            else:  # removed by hand, or cut off between the two
                mark.unlink(missing_ok=True)
        if count >= self._max_owned:
            raise TaskQuotaReached(
                f"{count:,} task specifications of this key are kept, and more are not allowed: remove one that is not "
                "needed any more (DELETE /v1/task-specs/<id>), or wait until one expires"
            )

    def _is_expired(self, used: float) -> bool:
        return self._keep_s is not None and self._clock() - used > self._keep_s

    def _touch(self, path: Path) -> None:
        now = self._clock()
        with suppress(OSError):  # removed just now, or a router may only read here
            os.utime(path, (now, now))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.removeprefix(TASK_PREFIX)}.spec"

    def _mark(self, owner: str, name: str) -> Path:
        return self._folder / OWNERS / owner / name.removeprefix(TASK_PREFIX)

    def _marks(self, name: str) -> list[Path]:
        return list((self._folder / OWNERS).glob(f"*/{name.removeprefix(TASK_PREFIX)}"))


def _read(path: Path) -> TaskSpecification:
    return load_task_specification(path.read_bytes())
