"""The secrets that sign the router's choices (`router.choice`), and where they are kept.

Routers sign with the first one; replicas accept each of them. They must outlive a deployment: while replicas are
replaced one by one, old and new ones answer side by side, and a choice that a replica cannot read falls to the base
model. They come from, in this order:

    LEARNWARE_SIGNING_SECRET    environment variable of the process that builds the application
    <market>/signing-secret     a file in the folder `market.path`, made at the first start, mode 0600
    neither                     a new one at each build: one machine, whose stack starts and stops as a whole

Variable and file hold one secret, or two separated by a blank, a comma or a line break. To change it without a refused
choice: deploy with `old new`, then with `new old`, then with `new`.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from specs.errors import StartupError
from specs.files import sync

VARIABLE = "LEARNWARE_SIGNING_SECRET"
"""Environment variable with the secret, or the two."""
FILE = "signing-secret"
"""Name of the secrets' file in the market's folder."""
SECRET_BYTES = 32
"""Random bytes of a secret: as many as the digest of its HMAC has."""
SHORTEST = 16
"""Characters that a secret has at least."""
MOST = 2
"""Secrets that hold at once: the current one, and the one before or after it."""


def signing_secrets(market: Path | None) -> tuple[bytes, ...]:
    """Returns the secrets, the one that signs first. `market` is the folder of a market that outlasts the stack, if
    there is one; its file is made if absent.

    Raises:
        StartupError: the variable or the file holds no usable secret, or the file can be neither read nor made.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return _parsed(given, f"the environment variable {VARIABLE}")
    if market is None:
        return (_new().encode(),)
    path = market / FILE
    try:
        if not path.exists():
            _make(path)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(
            f"cannot keep the signing secret in {path} ({error}); make the folder writable, or set {VARIABLE}"
        ) from error
    return _parsed(text, str(path))


def _new() -> str:
    return secrets.token_hex(SECRET_BYTES)


def _make(path: Path) -> None:
    """Makes the file whole or not at all. Where two processes make it at once, the first one's stays: a link to a name
    that exists fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(_new() + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def _parsed(text: str, where: str) -> tuple[bytes, ...]:
    found = [part for part in re.split(r"[\s,]+", text) if part]
    if not 1 <= len(found) <= MOST or min(map(len, found)) < SHORTEST:
        raise StartupError(
            f"{where} must hold one secret, or two, each of at least {SHORTEST} characters; "
            "`openssl rand -hex 32` prints one"
        )
    return tuple(part.encode() for part in found)
