"""The key file: names, SHA-256 digests and limits of API keys, as JSON. It never holds a key.

    {"format": 1, "keys": [{"name": "alice", "sha256": "…", "created": "2026-01-31T12:00:00Z", "max_tokens": 512}]}

A limit that an entry leaves out is that of the configuration (`limits.*`); null means: without limit. Several keys may
have one name, so that one can be replaced by another while both hold: they are one tenant, with the limits of the last
entry. The file is there whole or not at all, and only its owner can read it.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from serving.access.tenant import ADMIN_NAME, ANONYMOUS_NAME, Tenant
from specs.errors import InvalidConfig
from specs.files import file_lock, sync

FORMAT = 1
"""Number of the file format that is written and read."""
MAX_BYTES = 8 << 20
"""Largest key file that is read, in bytes: some 40,000 keys. It is read in the loop that streams tokens, so it must not
take seconds."""
LOCK_WAIT_S = 10.0
"""Seconds for which a change waits for another one of the same file; a change takes milliseconds."""
MAX_WEIGHT = 1000.0
"""Largest weight of a tenant. More would starve the others as good as for ever."""
PRIORITIES = 1000
"""Best priority that a key may grant, negated."""
LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "max_tokens",
    "models",
    "weight",
    "priority",
    "metrics",
)
"""Names of an entry's limits: the fields of `Tenant` that a key sets."""
RESERVED = (ADMIN_NAME, ANONYMOUS_NAME)
"""Names that no key may have: they stand for tenants of their own."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Count = Annotated[int, Field(ge=1)]


class KeyEntry(BaseModel):
    """One key: its tenant's name, its digest, the time at which it was made, and limits."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str
    sha256: str
    created: str = Field("", max_length=64, pattern=r"^[0-9A-Za-z:.+-]*$")
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    max_tokens: Count | None = None
    models: tuple[str, ...] | None = None
    weight: float = Field(1.0, gt=0, le=MAX_WEIGHT)
    priority: int = Field(0, ge=-PRIORITIES, le=0)
    metrics: bool = False

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return checked_name(name)

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise ValueError("must be the key's SHA-256 digest: 64 characters 0 to 9 and a to f")
        return digest

    @field_validator("models")
    @classmethod
    def _are_models(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if models is not None and not all(model.isprintable() and 0 < len(model) <= 256 for model in models):
            raise ValueError("must be printable texts of 1 to 256 characters, the values of `model` that are allowed")
        return models

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that the entry names itself, null included."""
        return {name: getattr(self, name) for name in LIMITS if name in self.model_fields_set}

    def tenant(self, defaults: Mapping[str, Any]) -> Tenant:
        """Returns the tenant, with `defaults` for those fields of `Tenant` that the entry leaves out."""
        return Tenant(self.name)._replace(**{**defaults, **self.limits})


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1]
    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _has_each_key_once(self) -> "_KeyFile":
        seen: dict[str, int] = {}
        for number, entry in enumerate(self.keys):
            if entry.sha256 in seen:
                raise ValueError(f"keys[{number}] and keys[{seen[entry.sha256]}] are the same key; one of them must go")
            seen[entry.sha256] = number
        return self


def checked_name(name: str) -> str:
    """Returns a tenant's name unchanged.

    Raises:
        ValueError: it holds other characters than names may, is too long, or is reserved.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name must have 1 to 64 letters, digits, dots, underscores and hyphens, and begin with a letter or digit"
        )
    if name.lower() in RESERVED:
        raise ValueError(f"the name {name} is reserved; choose another one than {' and '.join(RESERVED)}")
    return name


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Reads a key file.

    Raises:
        InvalidConfig: it is missing, cannot be read, is too large, or something in it is wrong; the message names the
            place.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidConfig(f"there is no key file {path}; `learnware-serving keys add` makes one") from None
    except OSError as error:
        raise InvalidConfig(f"cannot read the key file {path}: {os.strerror(error.errno or 0)}") from None
    if len(content) > MAX_BYTES:
        raise InvalidConfig(f"the key file {path} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return _KeyFile.model_validate_json(content).keys
    except ValidationError as error:
        faults = [_explain(fault) for fault in error.errors(include_url=False, include_input=False)[:3]]
        raise InvalidConfig(f"the key file {path} cannot be used: {'; '.join(faults)}") from None


@contextmanager
def changing(path: Path) -> Iterator[list[KeyEntry]]:
    """Gives the entries of a key file, none where there is no file, and writes them back when the block ends without an
    error. Changes of one file exclude each other, in every process. Nothing is written where nothing was changed.

    Raises:
        InvalidConfig: the file or its folder cannot be used, or another process did not finish its change in time.
    """
    path = path.expanduser().resolve()
    if not path.parent.is_dir():
        raise InvalidConfig(f"there is no folder {path.parent} for the key file {path.name}; make it first")
    lock = file_lock(path.with_name(f".{path.name}.lock"))
    try:
        held = lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise InvalidConfig(f"another process is changing the key file {path}; try again") from None
    except OSError as error:
        raise InvalidConfig(f"cannot change the key file {path}: {os.strerror(error.errno or 0)}") from None
    with held:
        before = read_keys(path) if path.exists() else ()
        entries = list(before)
        yield entries
        if tuple(entries) != before or not path.exists():
            _write(path, entries)


def _write(path: Path, entries: Sequence[KeyEntry]) -> None:
    """Replaces the file by a whole new one, readable by its owner alone. The owner stays who it was: a stack that runs
    as another user must go on reading what root has changed."""
    written = ",\n  ".join(entry.model_dump_json(exclude_unset=True) for entry in entries)
    content = f'{{"format": {FORMAT}, "keys": [\n  {written}\n]}}\n'.encode()
    if len(content) > MAX_BYTES:
        raise InvalidConfig(f"the key file {path} would be larger than {MAX_BYTES >> 20} MiB; revoke keys first")
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                if path.exists() and os.geteuid() == 0:
                    found = path.stat()
                    os.fchown(descriptor, found.st_uid, found.st_gid)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        raise InvalidConfig(f"cannot write the key file {path}: {os.strerror(error.errno or 0)}") from None


def _explain(fault: Mapping[str, Any]) -> str:
    """One fault as a sentence that begins with its place, such as keys[2].weight."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        *_, last = fault["loc"]
        known = ", ".join(KeyEntry.model_fields) if "keys" in fault["loc"][:1] else "format, keys"
        message = f"{last} is not known; known are {known}"
    return f"{place}: {message}" if place else message
