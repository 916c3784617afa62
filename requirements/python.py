"""Runs a program with Python 3.11 where none is on PATH: uv fetches one, once, into a folder of this project.

    python3 requirements/python.py .venv-python requirements/environment.py .venv

Runs on any Python from 3.8 on (standard library only). uv is the one on PATH, or else comes through pip into a
virtual environment that is thrown away; both heed their own settings (`PIP_INDEX_URL`, `UV_PYTHON_INSTALL_MIRROR` and
all others). Nothing is written outside the folder but their caches. The folder has either a Python that works or does
not exist: what was cut short or failed is removed, at the latest by the next run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import steps
from steps import StepFailure, say

WANTED = "3.11"
BEGUN, COMPLETE = ".learnware-begun", ".learnware-complete"
IGNORED = (".gitignore", ".ignore")
"""Each says that git and ruff pass over the folder; ruff heeds the first only inside a git checkout."""

USABLE = "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))"
"""The Makefile asks the same of a Python on PATH."""

ADVICE = (
    "Install Python 3.11 with venv (Debian 12: apt install python3.11-venv; with uv: uv python install 3.11, and "
    "~/.local/bin on PATH), or name one: make PYTHON=/path/to/python3.11 …"
)


def interpreter(folder: Path) -> Path:
    """The Python 3.11 in `folder`, fetched if it is not there yet.

    Raises:
        StepFailure: it cannot be fetched, or the folder is somebody else's. Then a folder of ours is gone.
    """
    present = finished(folder)
    if present is not None:
        return present
    if folder.exists() and any(folder.iterdir()) and not (folder / BEGUN).exists():
        raise StepFailure(f"{folder} was not made by this program: remove it")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        begin(folder)
        python = fetch(folder)
        fresh = folder / (COMPLETE + ".new")
        fresh.write_text(str(python.relative_to(folder)), encoding="utf-8")
        fresh.replace(folder / COMPLETE)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise StepFailure(f"cannot write {folder}: {error}") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return python


def finished(folder: Path) -> Path | None:
    """The interpreter that an earlier run fetched, if it still works."""
    try:
        python = folder / (folder / COMPLETE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return python if works(python) else None


def works(python: Path) -> bool:
    environment = {key: value for key, value in os.environ.items() if key not in steps.HIDDEN}
    try:
        done = subprocess.run([str(python), "-c", USABLE], check=False, capture_output=True, env=environment)
    except OSError:
        return False
    return done.returncode == 0


def begin(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / BEGUN).touch()
    for name in IGNORED:
        (folder / name).write_text("*\n", encoding="utf-8")


def fetch(folder: Path) -> Path:
    """Python 3.11 by uv, below `folder`. Raises StepFailure when uv cannot be had, fails, or brings none that works."""
    say(f"no Python {WANTED} on PATH: uv fetches one into {folder} (about 30 MB)")
    scratch, versions = folder / "uv", folder / "python"
    uv = shutil.which("uv") or str(install_uv(scratch))
    failure = f"uv could not fetch Python {WANTED} (see above; UV_PYTHON_INSTALL_MIRROR names another place)"
    # uv would otherwise also put a link into ~/.local/bin.
    settings = {"UV_PYTHON_INSTALL_DIR": str(versions), "UV_PYTHON_INSTALL_BIN": "0"}
    steps.run([uv, "python", "install", WANTED], failure, settings=settings)
    shutil.rmtree(scratch, ignore_errors=True)
    # Newer uv also makes a link without the last number of the version beside the folder that has it.
    found = [path for path in sorted(versions.glob(f"*/bin/python{WANTED}")) if not path.parents[1].is_symlink()]
    working = [path for path in found if works(path)]
    if not working:
        raise StepFailure(f"what uv fetched has no Python {WANTED} that runs here")
    return working[-1]


def install_uv(scratch: Path) -> Path:
    """uv's program, through pip below `scratch`. Only as a wheel: from sources it would be compiled with Rust."""
    failure = "pip could not get uv (see above)"
    if has("venv", "ensurepip"):
        say(f"uv, through pip (Python {sys.version.split()[0]})")
        steps.run([sys.executable, "-m", "venv", str(scratch)], "no virtual environment could be made (see above)")
        steps.pip_install(str(scratch / "bin" / "python"), "--only-binary", ":all:", "uv", failure=failure)
    elif has("pip"):
        say(f"uv, through the pip of Python {sys.version.split()[0]}")
        where = ("--target", str(scratch))
        steps.pip_install(sys.executable, *where, "--only-binary", ":all:", "uv", failure=failure)
    else:
        raise StepFailure(
            f"Python {sys.version.split()[0]} has neither venv with ensurepip nor pip to get uv with (on Debian: apt "
            "install python3-venv)"
        )
    return scratch / "bin" / "uv"


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def main(arguments: list[str]) -> None:
    # Ended by a signal, it removes what is half made as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        python = str(interpreter(Path(arguments[0]).absolute()))
    except StepFailure as failure:
        sys.exit(steps.line(f"{failure}. {ADVICE}"))
    except KeyboardInterrupt:
        sys.exit(steps.line("stopped; the next run starts this anew"))
    os.execv(python, [python, *arguments[1:]])  # noqa: S606 - make's signals are to reach the program itself


if __name__ == "__main__":
    main(sys.argv[1:])
