"""Takes a submission (a folder, a zip file or a model of the Hugging Face hub) into a folder of the market's own.

Nothing of it is trusted: only regular files with known names (`specs.market.contents`) are copied, each counted as it
is read, so that neither a name, a link nor a size can reach beyond that folder. What is not read is left out and
named. The files' content is checked afterwards (`specs.market.checks`).
"""

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from specs.errors import InvalidInput, InvalidLearnware
from specs.learnware import SPECIFICATION_FOLDER
from specs.market.contents import KNOWN_FILES, choose

ENTRIES = 10_000
"""The most files of a submission that are looked at, taken or not."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_CACHE = re.compile(r"models--.+")
"""Name of a model's folder in the Hugging Face hub's cache."""
_BOOKKEEPING = frozenset({".cache"})
"""Folders that the hub's own client makes in what it downloads: not worth naming."""
_UNSEEN = frozenset({"__MACOSX", "__pycache__"})
"""Folders that are not looked into, beside those whose name begins with a dot."""
_CHUNK = 1 << 20
"""Bytes that are copied at a time."""
_RATIO_MATTERS_BYTES = 1 << 20
"""Size in bytes up to which a zip's entry may shrink by any ratio: it cannot become large."""
_DIRECTORY_BYTES = 4 << 20
"""The most bytes of a zip's directory: 10,000 entries with names of 300 bytes. `zipfile` makes some 500 bytes of
objects out of each of an entry's 50."""
_NAME_LENGTH = 1024
"""The most characters of the name of a zip's entry."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods of a zip that are read."""
_ENCRYPTED = 0x1
"""Bit of a zip's entry flags that says that it is encrypted."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)
"""Errors that `zipfile` raises on damaged or unreadable archives."""

Progress = Callable[[int], object]
"""A callback that gets the number of bytes that have just been taken."""


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
        return take_items(_folder_items(snapshot_of(source)), folder, limits, progress, pickled=pickled)
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
        with zipfile.ZipFile(_Bounded(file)) as archive:
            items = _zip_items(archive, limits)
            if part:
                items = {
                    each.removeprefix(f"{part}/"): item for each, item in items.items() if each.startswith(f"{part}/")
                }
                if not items:
                    raise InvalidLearnware(f"{name} has no folder {part!r}")
            return take_items(items, folder, limits, progress, pickled=pickled)
    except _DAMAGE as error:
        raise InvalidLearnware(f"{name} is not a whole zip file: {error}") from None


def take_items(
    items: Mapping[str, Item],
    folder: Path,
    limits: Limits,
    progress: Progress = lambda _: None,
    *,
    pickled: bool = False,
) -> Taken:
    """Copies those of the files `items`, by their names in the submission, that are a learnware's into `folder`.

    Raises:
        InvalidLearnware: as `take_in` does.
    """
    choice = choose(items, pickled=pickled)
    _check_count(len(choice.files), limits)
    for name in choice.files:
        if fault := items[name].fault:
            raise InvalidLearnware(fault)
    _check_total(sum(items[name].size or 0 for name in choice.files), limits)
    taken = 0
    for name, target in choice.files.items():
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
    return Taken(choice.left_out, choice.notes)


def split_part(source: str) -> tuple[str, str]:
    """Splits `SOURCE.zip#sub/folder` into the zip and the folder inside it, which is empty if there is none."""
    path, mark, part = source.rpartition("#")
    if mark and path.lower().endswith(".zip"):
        return path, part.strip("/")
    return source, ""


def is_hub_id(source: str) -> bool:
    """Whether `source` reads as `owner/name` and no such folder or file exists."""
    return bool(_HUB_ID.fullmatch(source)) and not Path(source).exists()


def download(hub_id: str, folder: Path, limits: Limits) -> None:
    """Fetches the files with known names of a model on the Hugging Face hub into `folder`, and no others.

    Raises:
        InvalidLearnware: the files are too large together.
        InvalidInput: the files cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    patterns = [*KNOWN_FILES, f"{SPECIFICATION_FOLDER}/*.json", f"{SPECIFICATION_FOLDER}/*.safetensors"]
    try:
        plan = snapshot_download(hub_id, allow_patterns=patterns, local_dir=folder, dry_run=True)
        _check_total(sum(file.file_size for file in plan), limits)
        snapshot_download(hub_id, allow_patterns=patterns, local_dir=folder)
    except (OSError, ValueError, RuntimeError) as error:  # huggingface_hub's and httpx's errors are of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(f"cannot get {hub_id!r} from the Hugging Face hub: {reason}") from None


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


def _folder_items(source: Path) -> dict[str, Item]:
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
    """Yields everything but plain folders, without following links. Folders that no adapter lies in are not looked
    into, but yielded as they are."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInput(f"cannot read the folder {folder}: {error.strerror}") from None
    for entry in found:
        if entry.is_dir(follow_symlinks=False) and not _is_unseen(entry.name):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _is_unseen(name: str) -> bool:
    return name.startswith(".") or name in _UNSEEN


class _Bounded(io.RawIOBase):
    """A seekable file that refuses to read more at once than the largest directory of a zip: `zipfile` reads a zip's
    whole directory, however many entries it has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        """Reads up to `size` bytes."""
        if size is not None and size > _DIRECTORY_BYTES:
            raise InvalidLearnware(f"the zip holds more than {ENTRIES} entries")
        return self._file.read(_DIRECTORY_BYTES if size is None or size < 0 else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to another place, as every file does."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Returns the present place."""
        return self._file.tell()

    def seekable(self) -> bool:
        """Says that it can seek."""
        return True

    def readable(self) -> bool:
        """Says that it can be read."""
        return True


def _zip_items(archive: zipfile.ZipFile, limits: Limits) -> dict[str, Item]:
    entries = archive.infolist()
    if len(entries) > ENTRIES:
        raise InvalidLearnware(f"the zip holds more than {ENTRIES} entries")
    items: dict[str, Item] = {}
    seen: set[str] = set()
    for entry in entries:
        _check_place(entry)
        if entry.is_dir():
            continue
        name = PurePosixPath(entry.filename).as_posix()
        if name.casefold() in seen:
            raise InvalidLearnware(f"the zip holds {name} twice")
        seen.add(name.casefold())
        parts = PurePosixPath(name).parts
        unseen = next((at for at, part in enumerate(parts) if _is_unseen(part)), None)
        if unseen is not None:  # named as a folder's are, whose inside is not looked at
            name = "/".join(parts[: unseen + 1])
            items.setdefault(name, Item(0, partial(archive.open, entry), f"{name} is never read"))
        else:
            items[name] = Item(entry.file_size, partial(archive.open, entry), _entry_fault(entry, limits))
    return items


def _check_place(entry: zipfile.ZipInfo) -> None:
    """Refuses an entry that no honest tool packs, whether it would be taken or not."""
    name = entry.filename
    parts = PurePosixPath(name).parts
    # orig_filename: zipfile itself cuts a name at its first NUL and turns the system's separators into slashes
    if name.startswith("/") or ".." in parts or any(mark in entry.orig_filename for mark in "\\:\0"):
        raise InvalidLearnware(f"the zip's entry {entry.orig_filename!r} leads out of the learnware's folder")
    if len(name) > _NAME_LENGTH:
        raise InvalidLearnware(f"the zip's entry {name[:40]!r}… has a name of more than {_NAME_LENGTH} characters")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not entry.is_dir() and kind not in (0, stat.S_IFREG):
        raise InvalidLearnware(f"the zip's entry {name!r} is a symbolic link or another special file")


def _entry_fault(entry: zipfile.ZipInfo, limits: Limits) -> str | None:
    """Says why an entry is not unpacked, if it is not."""
    if entry.flag_bits & _ENCRYPTED:
        return f"the zip's entry {entry.filename!r} is encrypted"
    if entry.compress_type not in _METHODS:
        return f"the zip's entry {entry.filename!r} is neither stored nor deflated"
    if entry.file_size > _RATIO_MATTERS_BYTES and entry.file_size > limits.ratio * entry.compress_size:
        return f"the zip's entry {entry.filename!r} unpacks to more than {limits.ratio:g} times its compressed size"
    return None


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
