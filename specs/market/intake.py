"""Takes a submission (a folder or a zip file) into a folder of the market's own.

Nothing of it is trusted: only regular files with known names (`specs.market.contents`) are copied, each counted as it
is read, so that neither a name, a link nor a size can reach beyond that folder. What is not read is left out and
named. The files' content is checked afterwards (`specs.market.checks`).
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

from specs.adapter import CONFIG_FILE
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.archive import Bounded, zip_items
from specs.market.contents import INITIAL_FOLDER, choose
from specs.market.folders import folder_items, snapshot_of
from specs.market.submission import Item, Limits
from specs.untrusted import read_json

__all__ = ["Item", "Limits", "Progress", "Taken", "split_part", "take", "take_in", "take_items", "take_zip"]

_CHUNK = 1 << 20
"""Bytes that are copied at a time."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)
"""Errors that `zipfile` raises on damaged or unreadable archives."""

Progress = Callable[[int], object]
"""A callback that gets the number of bytes that have just been taken."""


class Taken(NamedTuple):
    """The names that were left out of a submission (a folder counts once, with a slash at its end), and sentences on
    what was decided."""

    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()


def take(
    source: Path, folder: Path, limits: Limits, progress: Progress = lambda _: None, *, pickled: bool = False
) -> tuple[str, ...]:
    """Copies the learnware in `source`, a folder or a zip file, into the empty `folder`, and returns the names that it
    left out. `take_in` says more."""
    return take_in(source, folder, limits, progress, pickled=pickled).left_out


def take_in(
    source: Path, folder: Path, limits: Limits, progress: Progress = lambda _: None, *, pickled: bool = False
) -> Taken:
    """Copies the learnware in `source`, a folder or a zip file, into the empty `folder`. With `pickled`, weights in a
    pickle are copied too where there are no others; nothing is read from them.

    Its files may lie in one sub-folder, as many tools pack them; `SOURCE.zip#sub/folder` names one of several in a
    zip. A folder in the Hugging Face hub's cache stands for its snapshot, and links into that cache are followed.

    Raises:
        InvalidLearnware: it has no adapter or several, is too large, or holds something that is not accepted; `folder`
            may then hold a part.
        InvalidInput: it is neither a folder nor a zip file.
    """
    path, part = split_part(str(source))
    if part and Path(path).is_file():
        with Path(path).open("rb") as file:
            return take_zip(file, Path(path).name, folder, limits, progress, part=part, pickled=pickled)
    if source.is_dir():
        return take_items(folder_items(snapshot_of(source)), folder, limits, progress, pickled=pickled)
    if source.is_file():
        with source.open("rb") as file:
            return take_zip(file, source.name, folder, limits, progress, pickled=pickled)
    raise InvalidInput(f"{source} is neither a folder nor a zip file")


def take_zip(
    file: IO[bytes],
    name: str,
    folder: Path,
    limits: Limits,
    progress: Progress = lambda _: None,
    *,
    part: str = "",
    pickled: bool = False,
) -> Taken:
    """Copies the learnware in an open zip file that can seek, called `name` in messages, as `take_in` does; only the
    bytes of what is taken are read. `part` names a folder inside the zip."""
    try:
        with zipfile.ZipFile(Bounded(file)) as archive:
            items = zip_items(archive, limits)
            if part:
                items = {
                    each.removeprefix(f"{part}/"): item for each, item in items.items() if each.startswith(f"{part}/")
                }
                if not items:
                    raise InvalidLearnware(f"{name} has no folder {part!r}")
            mark = f"#{part}/" if part else "#"
            return take_items(items, folder, limits, progress, pickled=pickled, mark=mark)
    except _DAMAGE as error:
        raise InvalidLearnware(f"{name} is not a whole zip file: {error}") from None


def take_items(
    items: Mapping[str, Item],
    folder: Path,
    limits: Limits,
    progress: Progress = lambda _: None,
    *,
    pickled: bool = False,
    mark: str = "/",
) -> Taken:
    """Copies those of the files `items`, by their names in the submission, that are a learnware's into `folder`. `mark`
    stands between the source and a folder in it, in messages.

    Raises:
        InvalidLearnware: as `take_in` does.
    """
    choice = choose(items, pickled=pickled, mark=mark)
    _check_count(len(choice.files), limits)
    for name in choice.files:
        if fault := items[name].fault:
            raise InvalidLearnware(fault)
    _check_total(sum(items[name].size or 0 for name in choice.files), limits)
    taken = 0
    idle: list[str] = []
    for name, target in choice.files.items():
        if target.startswith(f"{INITIAL_FOLDER}/") and not _begins_from_another(folder / CONFIG_FILE):
            idle.append(name)
            continue
        before = taken
        try:
            opened = items[name].open()
        except OSError as error:
            raise InvalidInput(f"cannot read {name}: {error.strerror or error}") from None
        with opened as content:
            taken = _write(content, folder / target, taken, limits, progress)
        size = items[name].size
        if size is not None and taken - before != size:
            raise InvalidLearnware(f"{name} has {taken - before} bytes instead of {size}: it was cut, or it changed")
    unused = {f"{name.rpartition('/')[0]}/" for name in idle}
    left_out = unused | {name for name in choice.left_out if not name.startswith(tuple(unused))}
    return Taken(tuple(sorted(left_out)), choice.notes)


def _begins_from_another(config: Path) -> bool:
    """Whether an adapter was initialised from the base's weights, so that it takes its initial adapter to convert it:
    PEFT then names the method in `init_lora_weights`."""
    try:
        content = read_json(config)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("init_lora_weights"), str)


def split_part(source: str) -> tuple[str, str]:
    """Splits `SOURCE.zip#sub/folder` into the zip and the folder inside it, which is empty if there is none."""
    path, mark, part = source.rpartition("#")
    if mark and path.lower().endswith(".zip"):
        return path, part.strip("/")
    return source, ""


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.files:
        raise InvalidLearnware(f"it holds more than {limits.files} files")


def _check_total(size: int, limits: Limits) -> None:
    if size > limits.bytes:
        raise InvalidLearnware(f"its files hold more than {limits.bytes / (1 << 20):g} MiB")


def _write(content: IO[bytes], path: Path, taken: int, limits: Limits, progress: Progress) -> int:
    """Copies one file, `taken` bytes having been copied before it, and returns how many are copied now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        while chunk := content.read(_CHUNK):
            taken += len(chunk)
            _check_total(taken, limits)  # the bytes read count, whatever size the archive states
            file.write(chunk)
            progress(len(chunk))
    return taken
