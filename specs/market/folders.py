"""The files of a folder that may be taken. Links are followed inside the folder and the Hugging Face hub's cache."""

import os
import re
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from specs.adapter import CONFIG_FILE
from specs.errors import InvalidInput, InvalidLearnware
from specs.learnware import SPECIFICATION_FOLDER
from specs.market.submission import ENTRIES, Item, is_unseen

_HUB_CACHE = re.compile(r"models--.+")
"""Name of a model's folder in the Hugging Face hub's cache."""
_BOOKKEEPING = frozenset({".cache"})
"""Folders that the hub's own client makes in what it downloads: not worth naming."""


def snapshot_of(folder: Path) -> Path:
    """Returns the snapshot that a model's folder in the Hugging Face hub's cache stands for: the revision `main`, or
    the only one. Any other folder stands for itself.

    Raises:
        InvalidLearnware: there are several snapshots and no `main`, or none.
    """
    if not _HUB_CACHE.fullmatch(folder.resolve().name) or not (folder / "snapshots").is_dir():
        return folder
    found = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if main.is_file() and (named := folder / "snapshots" / main.read_text().strip()) in found:
        return named
    if len(found) == 1:
        return found[0]
    revisions = ", ".join(path.name for path in found)
    raise InvalidLearnware(
        f"{folder.name} holds {len(found)} snapshots ({revisions or 'none was downloaded whole'}); name one of them, "
        f"such as {folder.name}/snapshots/REVISION"
    )


def folder_items(source: Path) -> dict[str, Item]:
    """Returns the files of a folder. A link is followed to a file of this folder, or of the hub's cache if the folder
    lies in it."""
    inside = _roots(source.resolve())
    items: dict[str, Item] = {}
    for path in _walk(source):
        name = path.relative_to(source).as_posix()
        if name in _BOOKKEEPING:
            continue
        if path.name == SPECIFICATION_FOLDER and path.is_symlink():
            raise InvalidLearnware(f"{name} is a symbolic link; submit the folder itself")
        items[name] = _file_item(path, name, inside)
        if len(items) > ENTRIES:
            if CONFIG_FILE in items:  # all that is taken lies at the top and right below
                break
            raise InvalidLearnware(f"{source.name} holds more than {ENTRIES} files; name the adapter's own folder")
    return items


def _roots(source: Path) -> tuple[Path, ...]:
    """Returns the folders that links may lead into: the source itself, and in the hub's cache the blobs of the same
    model and those that models share."""
    for parent in source.parents:
        if _HUB_CACHE.fullmatch(parent.name) and (parent / "snapshots").is_dir():
            return (source, parent / "blobs", parent.parent / "blobs")
    return (source,)


def _file_item(path: Path, name: str, inside: tuple[Path, ...]) -> Item:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):
        return Item(0, partial(_open, path), f"{name} is a symbolic link that leads nowhere; submit the file itself")
    fault = None
    size = 0
    if path.is_symlink() and not any(resolved.is_relative_to(root) for root in inside):
        fault = f"{name} is a symbolic link that leads out of the folder; submit the file itself"
    elif path.is_symlink() and not resolved.exists():
        fault = f"{name} is a symbolic link to a file that is missing; submit the file itself"
    elif not resolved.is_file():
        fault = f"{name} is no regular file"
    else:
        size = resolved.stat().st_size
    return Item(size, partial(_open, resolved), fault)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _walk(folder: Path) -> Iterator[Path]:
    """Yields everything but plain folders, level by level, without following links. Folders that no adapter lies in are
    not looked into, but yielded as they are."""
    folders = deque([folder])
    while folders:
        place = folders.popleft()
        try:
            with os.scandir(place) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise InvalidInput(f"cannot read the folder {place}: {error.strerror}") from None
        for entry in found:
            if not entry.is_dir(follow_symlinks=False) or is_unseen(entry.name):
                yield Path(entry.path)
            elif entry.name == SPECIFICATION_FOLDER:
                folders.appendleft(Path(entry.path))
            else:
                folders.append(Path(entry.path))
