"""The key with which a stack's owner may change its market from the command line of the same machine.

A stack without an admin key takes no changes over HTTP, but whoever started it may change the market's folder all the
same. So a stack on one machine makes a key for this run: a learnware that comes from the command line is then tried on
the engine as well. The admin key in effect, made or configured, lies in the run folder, where only its owner can read
it: the command line need not be told it, and can ask a stack with API keys whether it has followed a change.
"""

import os
import secrets
from pathlib import Path

from serving.access.keyring import ADMIN_KEY_VARIABLE, admin_key_of
from serving.config import Config
from serving.launch.instance import Instance, plan

KEY_FILE = "admin-key"
"""File name of the key in the run folder."""


def make_local_key(config: Config, instance: Instance) -> None:
    """Makes the key of this run where the configuration and the environment have none, and puts it into the
    environment, for the processes that are started next; keeps the key in effect in the run folder, which must be there
    and be its owner's alone."""
    path = instance.folder / KEY_FILE
    path.unlink(missing_ok=True)
    key = admin_key_of(config)
    if key is None:
        key = os.environ[ADMIN_KEY_VARIABLE] = secrets.token_urlsafe(24)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(key)


def admin_key(config: Config) -> str | None:
    """Returns the key with which this process may change the market of the stack of this configuration's port: the
    configured one, else the one of its run; None where it has none."""
    configured = admin_key_of(config)
    if configured is not None:
        return configured
    path: Path = plan(config.http.host, config.http.port).folder / KEY_FILE
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
