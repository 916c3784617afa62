"""Takes a submission (a folder, a zip file or a model of the Hugging Face hub) into a folder of the market's own.

Nothing of it is trusted: only regular files with known names are copied, each counted as it is read, so that neither a
name, a link nor a size can reach beyond that folder. The files' content is checked afterwards (`specs.market.checks`).
"""

import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from specs.adapter import CONFIG_FILE, EXECUTABLE_WEIGHTS, WEIGHTS_FILE
from specs.card import CARD_FILE
from specs.errors import InvalidInput, InvalidLearnware
from specs.learnware import SPECIFICATION_FOLDER

KNOWN_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, "training.json", "README.md", "LICENSE", "ATTRIBUTION.md")
"""Names of the files of a learnware that are taken, beside its specifications."""
_SPECIFICATION_FILE = re.compile(rf"{SPECIFICATION_FOLDER}/[a-z0-9][a-z0-9_-]*\.(json|safetensors)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_EXECUTABLE = EXECUTABLE_WEIGHTS | {".dll", ".exe", ".ipynb", ".js", ".pyc", ".py", ".sh", ".so"}
"""Endings of files that can run code when they are read or opened."""
_CHUNK = 1 << 20
"""Bytes that are copied at a time."""
_RATIO_MATTERS_BYTES = 1 << 20
"""Size in bytes up to which a zip's entry may shrink by any ratio: it cannot become large."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compression methods of a zip that are read."""
_ENCRYPTED = 0x1
"""Bit of a zip's entry flags that says that it is encrypted."""
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)
"""Errors that `zipfile` raises on damaged or unreadable archives."""

Progress = Callable[[int], object]
"""A callback that gets the number of bytes that have just been taken."""


class Limits(NamedTuple):
    """Bounds of one submission."""

    files: int = 32
    """The most files."""
    bytes: int = 1 << 30
    """The most bytes of all files together, uncompressed."""
    ratio: float = 100.0
    """The largest ratio of uncompressed to compressed size of a zip's entry over 1 MiB. Weights shrink by a tenth;
    deflate reaches 1032."""


def take(source: Path, folder: Path, limits: Limits, progress: Progress = lambda _: None) -> None:
    """Copies the learnware in `source`, a folder or a zip file, into the empty `folder`.

    In a zip the files may lie in one folder, as most tools pack them.

    Raises:
        InvalidLearnware: it is neither, or it holds something that is not accepted; `folder` may then hold a part.
    """
    if source.is_dir():
        _copy_folder(source, folder, limits, progress)
    elif source.is_file():
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, folder, limits, progress)
        except _DAMAGE as error:
            raise InvalidLearnware(f"{source.name} is not a whole zip file: {error}") from None
    else:
        raise InvalidInput(f"{source} is neither a folder nor a zip file")


def is_hub_id(source: str) -> bool:
    """Whether `source` reads as `owner/name` and no such folder or file exists."""
    return bool(_HUB_ID.fullmatch(source)) and not Path(source).exists()


def download(hub_id: str, folder: Path, limits: Limits, revision: str | None = None) -> None:
    """Fetches the files with known names of a model on the Hugging Face hub into `folder`, and no others.

    Raises:
        InvalidLearnware: the files are too large together.
        InvalidInput: the files cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    patterns = [*KNOWN_FILES, f"{SPECIFICATION_FOLDER}/*.json", f"{SPECIFICATION_FOLDER}/*.safetensors"]
    try:
        plan = snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_dir=folder, dry_run=True)
        _check_total(sum(file.file_size for file in plan), limits)
        snapshot_download(hub_id, revision=revision, allow_patterns=patterns, local_dir=folder)
    except (OSError, ValueError, RuntimeError) as error:  # huggingface_hub's and httpx's errors are of these
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInput(f"cannot get {hub_id!r} from the Hugging Face hub: {reason}") from None


def _copy_folder(source: Path, target: Path, limits: Limits, progress: Progress) -> None:
    taken = 0
    for number, path in enumerate(_walk(source), 1):
        _check_count(number, limits)
        name = path.relative_to(source).as_posix()
        if path.is_symlink():
            raise InvalidLearnware(f"{name} is a symbolic link; submit the file itself")
        if not path.is_file():
            raise InvalidLearnware(f"{name} is no regular file")
        _check_name(name)
        with path.open("rb") as content:
            taken = _write(content, target / name, taken, limits, progress)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields everything but plain folders, without following links. The hub's own bookkeeping (`.cache`) is left
    out."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            if path.name != ".cache":
                yield from _walk(path)
        else:
            yield path


def _unpack(archive: zipfile.ZipFile, target: Path, limits: Limits, progress: Progress) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _check_count(len(entries), limits)
    _check_total(sum(entry.file_size for entry in entries), limits)
    for entry in entries:
        _check_entry(entry, limits)
    names = _without_common_folder([entry.filename for entry in entries])
    taken = 0
    seen: set[str] = set()
    for entry, name in zip(entries, names, strict=True):
        _check_name(name)
        if name.casefold() in seen:
            raise InvalidLearnware(f"the zip holds {name} twice")
        seen.add(name.casefold())
        with archive.open(entry) as content:
            taken = _write(content, target / name, taken, limits, progress)


def _check_entry(entry: zipfile.ZipInfo, limits: Limits) -> None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    # orig_filename: zipfile itself cuts a name at its first NUL and turns the system's separators into slashes
    if name.startswith("/") or ".." in parts or any(mark in entry.orig_filename for mark in "\\:\0"):
        raise InvalidLearnware(f"the zip's entry {entry.orig_filename!r} leads out of the learnware's folder")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise InvalidLearnware(f"the zip's entry {name!r} is a symbolic link or another special file")
    if entry.flag_bits & _ENCRYPTED:
        raise InvalidLearnware(f"the zip's entry {name!r} is encrypted")
    if entry.compress_type not in _METHODS:
        raise InvalidLearnware(f"the zip's entry {name!r} is neither stored nor deflated")
    if entry.file_size > _RATIO_MATTERS_BYTES and entry.file_size > limits.ratio * entry.compress_size:
        raise InvalidLearnware(
            f"the zip's entry {name!r} unpacks to more than {limits.ratio:g} times its compressed size"
        )


def _without_common_folder(names: Iterable[str]) -> list[str]:
    names = list(names)
    top = {PurePosixPath(name).parts[0] for name in names if name}
    if len(top) == 1 and f"{next(iter(top))}/{CARD_FILE}" in names:
        return [name.partition("/")[2] for name in names]
    return names


def _check_name(name: str) -> None:
    if PurePosixPath(name).suffix.lower() in _EXECUTABLE:
        raise InvalidLearnware(f"{name}: only safetensors weights are accepted (others can run code when read)")
    if name not in KNOWN_FILES and not _SPECIFICATION_FILE.fullmatch(name):
        raise InvalidLearnware(
            f"{name} is not a file of a learnware; known are {', '.join(KNOWN_FILES)} and "
            f"{SPECIFICATION_FOLDER}/*.json, *.safetensors"
        )


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
