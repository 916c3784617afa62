"""The store of uploaded task specifications: a folder in the market's, with one file for each, named by its content.

A file is there whole or not at all, and never changes. Every router replica reads the folder as it is when a request
comes, so all of them know an upload or a removal at once, also after a restart.
"""

import os
import secrets
from functools import lru_cache
from pathlib import Path

from specs.errors import StoreFull
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
MAX_TASKS = 10_000
"""The most task specifications that are kept, about 40 MB: everybody with an API key may upload."""
REMEMBERED = 1024
"""Task specifications that are kept in memory, about 4 kB each: a request for one of them costs one look at the
folder."""


class TaskStore:
    """The task specifications of the market in folder `market`. Safe to use from several threads and processes."""

    def __init__(self, market: Path, max_tasks: int = MAX_TASKS) -> None:
        self._folder = market / FOLDER
        self._max_tasks = max_tasks
        self._read = lru_cache(REMEMBERED)(_read)

    def put(self, specification: TaskSpecification) -> str:
        """Keeps a specification and returns its id. Putting it twice is harmless.

        Raises:
            StoreFull: there are `max_tasks` already.
        """
        name = task_id(specification)
        path = self._path(name)
        if path.exists():
            return name
        self._folder.mkdir(parents=True, exist_ok=True)
        if sum(1 for _ in self._folder.glob("*.spec")) >= self._max_tasks:
            raise StoreFull(
                f"{self._max_tasks:,} task specifications are kept already: remove one that is not needed any more "
                "(DELETE /v1/task-specs/<id>)"
            )
        temporary = self._folder / f"{secrets.token_hex(8)}.new"
        try:
            with temporary.open("wb") as file:
                file.write(dump_task_specification(specification))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(self._folder)
        return name

    def find(self, name: str) -> TaskSpecification | None:
        """Returns the specification of this id, or None when there is none or `name` is no id.

        Raises:
            InvalidSpecification: its file is damaged, or was made with another encoder than this version's.
        """
        if not TASK_ID.fullmatch(name) or not self._path(name).exists():
            return None
        try:
            return self._read(self._path(name))
        except FileNotFoundError:  # removed just now
            return None

    def remove(self, name: str) -> bool:
        """Removes a specification and returns whether there was one."""
        if not TASK_ID.fullmatch(name):
            return False
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        _sync(self._folder)
        return True

    def _path(self, name: str) -> Path:
        return self._folder / f"{name.removeprefix(TASK_PREFIX)}.spec"


def _read(path: Path) -> TaskSpecification:
    return load_task_specification(path.read_bytes())


def _sync(folder: Path) -> None:
    """Waits until the folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
