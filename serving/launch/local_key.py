"""The key with which a stack's owner may change its market from the command line of the same machine.

A stack without an admin key takes no changes over HTTP, but whoever started it may change the market's folder all the
same. So a stack on one machine makes a key for this run, in its run folder, which only its owner can read: a learnware
that comes from the command line is then tried on the engine as well.
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
    environment, for the processes that are started next. The run folder must be there and be its owner's alone."""
    path = instance.folder / KEY_FILE
    path.unlink(missing_ok=True)
    if admin_key_of(config) is not None:
        return
    key = secrets.token_urlsafe(24)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key)
    os.environ[ADMIN_KEY_VARIABLE] = key


def admin_key(config: Config) -> str | None:
    """Returns the key with which this process may change the market of the stack of this configuration's port: the
    configured one, else the one of its run; None where it has none."""
    configured = admin_key_of(config)
    if configured is not None:
        return configured
    path: Path = plan(config.http.host, config.http.port).folder / KEY_FILE
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
