# ruff: noqa: PTH105, PTH118, PTH123
"""The keys as HAProxy looks them up: map files of digests, tenants and limits, made from the key file and the settings.

A key file that cannot be used keeps what the last good one said, over a reload of HAProxy too; before there was a good
one, nobody is let in. Where the settings name a key file every request needs a key, also while the file holds none;
where they name neither file nor key, everybody is let in, if they say so.
"""

import json
import os
import re
from typing import Any, NamedTuple

from serving.edge.settings import EdgeSettings
from serving.edge.tenants import LARGEST_RATE

#: File name, beside the maps, of what the last good key file held.
KEPT = "kept-keys.json"

#: The map files by their name and order: limits before the keys that have them.
MAPS = ("rpm", "concurrent", "keys", "state")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # as serving.access.key_file has it
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ANONYMOUS, _RESERVED = "anonymous", frozenset({"anonymous", "admin"})
_FORMAT = 1


class State(NamedTuple):
    """The keys that hold."""

    entries: list[dict[str, Any]]
    """Entries of the key file."""
    closed: bool
    """Whether a key is needed although there may be none."""
    problem: str | None = None
    """Why the key file could not be used, in a sentence."""


def read_key_file(path: str) -> list[dict[str, Any]]:
    """Return the entries of a key file.

    Raises:
        ValueError: it cannot be read or used; the message says why in a sentence.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(content.get("keys"), list):
        raise ValueError(f'{path} must hold {{"format": {_FORMAT}, "keys": [...]}}')
    entries: list[dict[str, Any]] = content["keys"]
    for number, entry in enumerate(entries, 1):
        if wrong := _wrong(entry):
            raise ValueError(f"{path}: key {number}: {wrong}")
    return entries


def _wrong(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return "must be an object"
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in _RESERVED:
        return "its name must have 1 to 64 of the characters A-Z a-z 0-9 . _ - and not be anonymous or admin"
    if not isinstance(entry.get("sha256"), str) or not _DIGEST.fullmatch(entry["sha256"]):
        return "its sha256 must be 64 lower-case hexadecimal digits"
    for field in ("requests_per_minute", "concurrent_requests"):
        limit = entry.get(field)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            return f"its {field} must be a whole number of at least 1, or null"
    return None


def current_state(settings: EdgeSettings, folder: str) -> State:
    """Return the keys that hold now, and keep those of a good file in `folder` for when the file is not one."""
    if settings.keys_file is None:
        return State([], False)
    try:
        entries = read_key_file(settings.keys_file)
    except ValueError as error:
        return State(_kept(folder), True, str(error))
    write(os.path.join(folder, KEPT), json.dumps(entries))
    return State(entries, True)


def _kept(folder: str) -> list[dict[str, Any]]:
    """Return the entries of the last good key file; none before there was one."""
    try:
        with open(os.path.join(folder, KEPT), encoding="utf-8") as file:
            entries: list[dict[str, Any]] = json.load(file)
            return entries
    except (OSError, ValueError):
        return []


def maps(settings: EdgeSettings, state: State) -> dict[str, dict[str, str]]:
    """Return the content of each map of `MAPS`. Several keys of one name are one tenant: the last entry's limits
    hold."""
    content: dict[str, dict[str, str]] = {name: {} for name in MAPS}
    entries = [*settings.static_keys, *state.entries]
    for entry in [{"name": _ANONYMOUS}, *entries]:
        name = entry["name"]
        for kind, field in (("rpm", "requests_per_minute"), ("concurrent", "concurrent_requests")):
            limit = entry[field] if field in entry else getattr(settings, field)
            content[kind].pop(name, None)
            if limit is not None and (kind != "rpm" or limit <= LARGEST_RATE):
                content[kind][name] = str(limit)
        if "sha256" in entry:
            content["keys"][entry["sha256"]] = name
    needed = state.closed or not settings.open_without_keys or any(entry.get("opens", True) for entry in entries)
    content["state"]["open"] = "no" if needed else "yes"
    return content


def write_maps(content: dict[str, dict[str, str]], folder: str) -> None:
    """Write each map into `<folder>/<name>.map`."""
    for name, pairs in content.items():
        write(os.path.join(folder, f"{name}.map"), "".join(f"{key} {value}\n" for key, value in pairs.items()))


def write(path: str, text: str) -> None:
    """Write a file whole or not at all, for its owner alone."""
    with open(path + ".new", "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    os.replace(path + ".new", path)
