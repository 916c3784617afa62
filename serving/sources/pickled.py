"""Makes safetensors of weights in a pickle, without trusting it.

The pickle is read by `serving.sources.unpickle` in a process of its own, with bounded memory, time and file size, with
none of this process's environment but what Python needs, and by PyTorch's reader that knows tensors and nothing else
(`weights_only`).
"""

import os
import subprocess
import sys
from pathlib import Path

from specs.adapter import WEIGHTS_FILE
from specs.errors import InvalidLearnware
from specs.market.contents import PICKLED_WEIGHTS
from specs.market.intake import Limits

TIME_LIMIT_S = 300.0
"""Seconds that a conversion may take."""
PROGRAM = Path(__file__).with_name("unpickle.py")
"""The program that reads the pickle."""
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
"""Environment variables that the process gets: no token, no key."""


def convert_all(folder: Path, limits: Limits) -> tuple[str, ...]:
    """Converts every pickle of weights that was taken into `folder`, and removes it. Returns sentences on that.

    Raises:
        InvalidLearnware: as `convert` does.
    """
    notes = []
    for path in sorted(folder.rglob(PICKLED_WEIGHTS)):
        convert(path, path.with_name(WEIGHTS_FILE), limits)
        path.unlink()
        name = path.relative_to(folder)
        notes.append(f"{name} was converted to {name.with_name(WEIGHTS_FILE)}")
    return tuple(notes)


def convert(source: Path, target: Path, limits: Limits) -> None:
    """Writes the tensors of the pickle `source` into the safetensors file `target`, which must not exist.

    Raises:
        InvalidLearnware: it holds anything but named tensors, or takes more memory or time than is allowed.
    """
    command = [sys.executable, "-I", str(PROGRAM), str(source), str(target), str(limits.bytes)]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIME_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        target.unlink(missing_ok=True)
        raise InvalidLearnware(f"{source.name} was not converted: it takes more than {TIME_LIMIT_S:g} s") from None
    if done.returncode:
        target.unlink(missing_ok=True)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"its process ended with status {done.returncode}"
        raise InvalidLearnware(f"{source.name} was not converted: {reason[:400]}")
