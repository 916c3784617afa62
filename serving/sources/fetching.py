"""Brings an adapter from wherever it is into a folder of ours.

| source | is |
|---|---|
| `path/to/folder`, `adapter.zip` | on this machine; also a folder of the hub's cache, and `file://` |
| `owner/name`, `hf://owner/name@revision` | a model of the Hugging Face hub, where no such path exists |
| `s3://bucket/prefix`, `gs://bucket/prefix` | a prefix of an object store, or a zip in one |
| `https://host/adapter.zip`, `http://…` | a zip behind a URL; or the page of a model of the hub |

`SOURCE.zip#folder` names one of several adapters in a zip.
"""

import re
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from serving.sources.bucket import take_bucket
from serving.sources.hub import HubModel, hub_page, parse_hub, take_model
from serving.sources.pickled import convert_all
from serving.sources.redaction import quiet_clients, redact
from serving.sources.web import open_zip, shown
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.folders import snapshot_of
from specs.market.intake import Limits, Progress, Taken, split_part, take_in, take_zip

TIME_LIMIT_S = 3600.0
"""Seconds that one fetch may take: 1 GiB at 300 kB/s."""
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CACHED = re.compile(r"models--(.+)--(.+)")
_CHECKPOINT = re.compile(r"checkpoint-\d+")


class Fetched(NamedTuple):
    """An adapter that was brought: the folder with its files under their own names; the names that were not read (a
    folder counts once, with a slash at its end); a name that the source suggests; the hub's commit, if it came from
    there; sentences on what was decided."""

    folder: Path
    left_out: tuple[str, ...]
    name: str
    revision: str | None
    notes: tuple[str, ...] = ()


def fetch(
    source: str,
    folder: Path,
    limits: Limits,
    progress: Progress = lambda _: None,
    *,
    convert_pickle: bool = False,
) -> Fetched:
    """Brings the adapter at `source` into `folder`, which is made if absent and must be empty. Only what is taken is
    downloaded, and `progress` gets the number of bytes that have just been taken.

    With `convert_pickle`, weights in a pickle are made into safetensors, in a process of their own
    (`serving.sources.pickled`).

    Raises:
        InvalidInput: the source cannot be read. No message holds a password, a token or a URL's query.
        InvalidLearnware: it has no adapter or several, is too large, or holds what is not accepted. `folder` may then
            hold a part.
    """
    source = _SCHEME.sub(lambda match: match[0].lower(), source, count=1)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InvalidInput(f"{folder} is not empty; an adapter is brought into an empty folder")
    end = monotonic() + TIME_LIMIT_S

    def timed(count: int) -> None:
        if monotonic() > end:
            raise InvalidInput(
                f"{redact(_plain(source), source)} takes more than {TIME_LIMIT_S / 60:g} minutes to fetch"
            )
        if count:
            progress(count)

    try:
        with quiet_clients():
            taken, name, revision = _take(source, folder, limits, timed, pickled=convert_pickle)
    except InvalidLearnware as error:
        raise InvalidLearnware(redact(str(error).replace("SOURCE", _named(source)), source)) from None
    except InvalidInput as error:
        raise InvalidInput(redact(str(error), source)) from None
    notes = (*taken.notes, *convert_all(folder, limits))
    return Fetched(folder, taken.left_out, name, revision, notes)


def _take(
    source: str, folder: Path, limits: Limits, progress: Progress, *, pickled: bool
) -> tuple[Taken, str, str | None]:
    """Brings the files; returns what was taken, the suggested name and the revision."""
    try:
        urlsplit(source)
    except ValueError as error:
        raise InvalidInput(f"the source is no URL: {error}") from None
    match _scheme(source):
        case None if not _is_hub(source):
            return _take_path(Path(source).expanduser(), folder, limits, progress, pickled=pickled)
        case None | "hf":
            return _take_model(parse_hub(source), folder, limits, progress, pickled=pickled)
        case "file":
            path, mark, part = source.partition("#")
            return _take_path(
                Path(unquote(urlsplit(path).path) + mark + part), folder, limits, progress, pickled=pickled
            )
        case "http" | "https":
            if model := hub_page(source):
                return _take_model(model, folder, limits, progress, pickled=pickled)
            url, _, part = source.partition("#")
            name = _suggested(Path(unquote(urlsplit(url).path)))
            with open_zip(url, limits, progress) as file:
                return (
                    take_zip(file, shown(url), folder, limits, progress, part=part.strip("/"), pickled=pickled),
                    name,
                    None,
                )
        case "s3" | "gs":
            return (
                take_bucket(source, folder, limits, progress, pickled=pickled),
                _suggested(Path(_plain(source))),
                None,
            )
        case scheme:
            raise InvalidInput(
                f"{scheme}:// is not read; a source is a folder, a zip, hf://owner/name@revision, s3://bucket/prefix, "
                "gs://bucket/prefix or https://….zip"
            )


def _take_path(
    path: Path, folder: Path, limits: Limits, progress: Progress, *, pickled: bool
) -> tuple[Taken, str, str | None]:
    taken = take_in(path, folder, limits, progress, pickled=pickled)
    resolved = snapshot_of(path).resolve()
    for parent in (resolved, *resolved.parents):
        if cached := _CACHED.fullmatch(parent.name):
            inner = resolved.relative_to(parent).parts
            return taken, f"{cached[1]}/{cached[2]}", inner[1] if len(inner) > 1 and inner[0] == "snapshots" else None
    return taken, _suggested(resolved), None


def _take_model(
    model: HubModel, folder: Path, limits: Limits, progress: Progress, *, pickled: bool
) -> tuple[Taken, str, str | None]:
    taken, revision = take_model(model, folder, limits, progress, pickled=pickled)
    return taken, model.name, revision


def _is_hub(source: str) -> bool:
    """Whether a source without a scheme is a model of the hub: `owner/name`, also with a revision, and no path."""
    return not Path(source).exists() and _HUB_ID.fullmatch(source.partition("@")[0]) is not None


def _scheme(source: str) -> str | None:
    match = _SCHEME.match(source)
    return match[1] if match else None


def _named(source: str) -> str:
    """Returns a source as a message shows it, so that a folder in it may follow."""
    if _scheme(source) == "hf" or _is_hub(source):
        name, revision, folder = parse_hub(source)
        return f"hf://{name}" + (f"@{quote(revision, safe='')}" if revision else "") + (f"/{folder}" if folder else "")
    return _plain(source).rstrip("/")


def _plain(source: str) -> str:
    """Returns a source without the folder in a zip, a query and a fragment."""
    return split_part(source)[0].partition("?")[0]


def _suggested(path: Path) -> str:
    """Returns the last part of a path, without .zip; a checkpoint goes by the name of the training run."""
    path = Path(split_part(str(path))[0])
    if _CHECKPOINT.fullmatch(path.name) and path.parent.name:
        path = path.parent
    return path.name[: -len(".zip")] if path.name.lower().endswith(".zip") else path.name
