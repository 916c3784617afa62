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

NAME = "environment"
"""What the lines begin with; a program of another step sets its own."""

HIDDEN = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PYTHONDONTWRITEBYTECODE")
"""Settings that would install elsewhere or import what belongs to another Python, and the one that keeps Python from
keeping what it compiled: each process of the stack would compile it anew."""


class StepFailure(Exception):
    """A step cannot be done; the message says what to do. `errors` is what a failed program wrote about it."""

    def __init__(self, message: str, errors: str = "") -> None:
        super().__init__(message)
        self.errors = errors


def line(message: str) -> str:
    """`message` after the step's name and the seconds since `make` began, as the Makefile's own lines have them."""
    return f"[{NAME} {max(time.time() - STARTED, 0):4.0f} s] {message}"


def say(message: str) -> None:
    print(line(message), flush=True)


def run(command: list[str], failure: str, *, quietly: bool = False, settings: dict[str, str] | None = None) -> None:
    """Runs `command` without the variables of `HIDDEN` and with `settings` as further variables.

    `quietly` shows nothing of what it writes; on a terminal only none of its errors, since the rest shows how far a
    download is.

    Raises:
        StepFailure: the command's exit status is not 0, or it cannot be run; the message begins with `failure`.
    """
    environment = {key: value for key, value in os.environ.items() if key not in HIDDEN}
    environment.update(settings or {})
    shown = subprocess.DEVNULL if quietly and not on_terminal() else None
    errors = []
    try:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.PIPE, env=environment
        ) as running:
            try:
                for written in running.stderr or ():
                    errors.append(written.decode(errors="replace"))
                    if not quietly:
                        print(errors[-1], end="", file=sys.stderr, flush=True)
            except BaseException:
                running.kill()
                raise
    except OSError as error:
        raise StepFailure(f"{failure} ({error})") from None
    if running.returncode != 0:
        raise StepFailure(failure, "".join(errors))


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
