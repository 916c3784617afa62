"""What the programs of this folder share: the lines that say what is being done, and how other programs are run.

Standard library only, and for Python 3.8 or newer: `python.py` uses it where there is no Python 3.11 yet.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

STARTED = float(os.environ.get("MAKE_STARTED") or time.time())
"""When `make` began, in seconds since the epoch; run by hand, when this program began."""

HIDDEN = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONDONTWRITEBYTECODE")
"""Settings that would install elsewhere or import what belongs to another Python, and the one that keeps Python from
keeping what it compiled: each process of the stack would compile it anew."""


class StepFailure(Exception):
    """A step cannot be done; the message says what to do."""


def line(message: str) -> str:
    """`message` after the step's name and the seconds since `make` began, as the Makefile's own lines have them."""
    return f"[environment {max(time.time() - STARTED, 0):4.0f} s] {message}"


def say(message: str) -> None:
    print(line(message), flush=True)


def run(command: list[str], failure: str, *, quietly: bool = False, settings: dict[str, str] | None = None) -> None:
    """Runs `command` without the variables of `HIDDEN` and with `settings` as further variables.

    `quietly` throws away what it writes; on a terminal only its errors, since the rest shows how far a download is.

    Raises:
        StepFailure: the command's exit status is not 0, or it cannot be run; the message begins with `failure`.
    """
    environment = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    environment.update(settings or {})
    errors = subprocess.DEVNULL if quietly else None
    shown = None if on_terminal() else errors
    try:
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=shown, stderr=errors, env=environment
        )
    except OSError as error:
        raise StepFailure(f"{failure} ({error})") from None
    if done.returncode != 0:
        raise StepFailure(failure)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def pip_install(python: str, *arguments: str, failure: str, quietly: bool = False) -> None:
    """`pip install` into the environment of `python`, from where pip is configured to look. On a terminal pip says
    what it fetches, with its progress bars; otherwise it is quiet (pip shows no bars without its other lines).

    Raises:
        StepFailure: as `run`.
    """
    quiet = () if on_terminal() else ("--quiet",)
    command = [python, "-m", "pip", "install", *quiet, "--disable-pip-version-check", "--no-input", *arguments]
    run(command, failure, quietly=quietly)
