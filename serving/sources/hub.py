"""Models of the Hugging Face hub: files are listed through `huggingface_hub`, and only what is taken is downloaded.

`HF_ENDPOINT` names another hub, `HF_TOKEN` (or `hf auth login`) gives access. The token goes to the hub's own server,
not to the storage that it redirects to. With `HF_HUB_OFFLINE` the snapshot in the local cache is taken.
"""

import os
import re
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from serving.sources.redaction import redact
from serving.sources.web import opened
from specs.errors import InvalidInput, InvalidLearnware
from specs.market.intake import Item, Limits, Progress, Taken, take_in, take_items
from specs.market.submission import ENTRIES

LISTING_TIMEOUT_S = 60.0
"""Seconds that the hub may take to list a model's files."""
_PART = re.compile(r"[A-Za-z0-9][\w.-]*")
_SPECIAL_REVISION = re.compile(r"(refs/(?:pr|convert)/[\w.-]+)(?:/(.*))?")
_FORM = "hf://owner/name@revision, or hf://owner/name@revision/folder"


class HubModel(NamedTuple):
    """A model on the hub: `owner/name`, the revision (None: the hub's default), and the folder in it ("": the top)."""

    name: str
    revision: str | None
    folder: str


def parse_hub(source: str) -> HubModel:
    """Reads `owner/name`, `hf://owner/name@revision`, with a folder before or after the revision. A revision with a
    slash, other than `refs/pr/1`, has it as %2F.

    Raises:
        InvalidInput: it is none of these.
    """
    text = source.removeprefix("hf://").removeprefix("models/").strip("/")
    path, mark, revision = text.partition("@")
    owner, _, rest = path.partition("/")
    name, _, folder = rest.partition("/")
    if not _PART.fullmatch(owner) or not _PART.fullmatch(name) or owner in ("datasets", "spaces"):
        raise InvalidInput(f"{redact(source, source)} does not name a model of the hub; the form is {_FORM}")
    if mark and not folder:
        if special := _SPECIAL_REVISION.fullmatch(revision):
            revision, folder = special[1], special[2] or ""
        else:
            revision, _, folder = revision.partition("/")
    if mark and not revision:
        raise InvalidInput(f"{redact(source, source)} has no revision after the @; the form is {_FORM}")
    return HubModel(f"{owner}/{name}", unquote(revision) or None, folder.strip("/"))


def hub_page(url: str) -> HubModel | None:
    """Returns the model that the URL of a page of the hub shows (`https://huggingface.co/owner/name/tree/main`), or
    None if it is no such page."""
    parts = urlsplit(url)
    hosts = {"huggingface.co", "hf.co", urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc}
    steps = [unquote(step) for step in parts.path.split("/") if step]
    if (
        parts.netloc not in hosts
        or parts.path.lower().endswith(".zip")
        or len(steps) < 2
        or not all(_PART.fullmatch(step) for step in steps[:2])
    ):
        return None
    if len(steps) == 2 and steps[0] not in ("datasets", "spaces", "docs", "blog", "api"):
        return HubModel("/".join(steps), None, "")
    if len(steps) >= 4 and steps[2] == "tree":
        return HubModel("/".join(steps[:2]), steps[3], "/".join(steps[4:]))
    return None


def take_model(
    model: HubModel, folder: Path, limits: Limits, progress: Progress, *, pickled: bool
) -> tuple[Taken, str | None]:
    """Takes the adapter of a model into `folder`. Returns what was taken, and the commit that it was taken from.

    Raises:
        InvalidInput: the hub cannot be reached, or has no such model, revision or folder.
        InvalidLearnware: as `take_items` does.
    """
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        info = HfApi(endpoint=endpoint).model_info(
            model.name, revision=model.revision, files_metadata=True, timeout=LISTING_TIMEOUT_S
        )
    except OfflineModeIsEnabled:
        return _take_cached(model, folder, limits, progress, pickled=pickled)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        raise InvalidInput(f"cannot get {_shown(model)} from the hub: {_reason(error)}") from None
    headers = build_hf_headers(library_name="learnware-serving")
    prefix = f"{model.folder}/" if model.folder else ""
    items: dict[str, Item] = {}
    for file in info.siblings or []:
        if file.rfilename.startswith(prefix):
            url = hf_hub_url(model.name, file.rfilename, revision=info.sha, endpoint=endpoint)
            items[file.rfilename.removeprefix(prefix)] = Item(file.size, partial(opened, url, headers))
    if len(items) > ENTRIES:
        raise InvalidLearnware(f"{model.name} holds more than {ENTRIES} files; name the adapter's folder")
    if prefix and not items:
        raise InvalidInput(f"{model.name} has no folder {model.folder!r} at revision {model.revision or info.sha}")
    return take_items(items, folder, limits, progress, pickled=pickled), info.sha


def _take_cached(
    model: HubModel, folder: Path, limits: Limits, progress: Progress, *, pickled: bool
) -> tuple[Taken, str | None]:
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(model.name, revision=model.revision, local_files_only=True))
    except (OSError, ValueError, RuntimeError):
        raise InvalidInput(
            f"{_shown(model)} is not in the hub's local cache, and HF_HUB_OFFLINE forbids to ask the hub"
        ) from None
    return take_in(snapshot / model.folder, folder, limits, progress, pickled=pickled), snapshot.name


def _shown(model: HubModel) -> str:
    return model.name + (f" at revision {model.revision}" if model.revision else "")


def _reason(error: Exception) -> str:
    """Says what went wrong at the hub, in a sentence without secrets."""
    match type(error).__name__:
        case "GatedRepoError":
            return "access to it must be asked for on its page, and HF_TOKEN must be set"
        case "RepositoryNotFoundError":
            return "there is no such model, or it is private (then HF_TOKEN must be set)"
        case "RevisionNotFoundError":
            return "there is no such revision of it"
        case name:
            lines = redact(str(error)).strip().splitlines()
            return lines[0] if lines else name
