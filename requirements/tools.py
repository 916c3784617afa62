"""Throwaway virtual environments for programs that make something of this project and are no part of it.

What a program needs is pinned with hashes in a list of its own, so that it neither changes the environment of the
product nor depends on what that holds.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import steps


@contextlib.contextmanager
def environment_of(packages: Path) -> Iterator[str]:
    """The Python of a virtual environment with the packages of a list alone. The environment goes when the block ends.

    Raises:
        StepFailure: it cannot be made; the message says why.
    """
    with tempfile.TemporaryDirectory(prefix="learnware-tool-") as folder:
        steps.run([sys.executable, "-m", "venv", folder], "no virtual environment could be made (see above)")
        python = str(Path(folder) / "bin" / "python")
        failure = f"pip could not install {packages.name} (see above)"
        steps.pip_install(python, "--require-hashes", "--no-deps", "--requirement", str(packages), failure=failure)
        yield python
