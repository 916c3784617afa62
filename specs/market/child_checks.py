"""Runs the checks of a submission in another process (`specs.market.check_server`), which may die in its place.

A process that ends in the middle, takes too long or needs too much memory refuses the submission; the next one finds a
new process. `stop` ends the step that is under way, as when its client has gone.
"""

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from specs.errors import CheckDied, InvalidInput
from specs.learnware import Learnware
from specs.market.check_messages import LENGTH_BYTES, Answer, Ask
from specs.market.checks import Requirements
from specs.market.examination import Checked
from specs.market.intake import Limits, Progress

_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""Parts of the names of variables that the process is not given."""


class CheckLimits(NamedTuple):
    """Bounds of one step: memory beside mapped files, computing time, and time by the clock."""

    memory_bytes: int = 2 << 30
    """A conversion of the largest adapter that is accepted takes three times its float32 numbers; a plain one is read
    a part at a time."""
    cpu_s: int = 60
    """Unpacking and checking 1 GiB takes some 10 s."""
    wall_s: float = 120.0
    """Twice the computing time: replicas may keep the processors busy."""


class ChildChecks:
    """The steps of an examination, each in a process of its own, one at a time. Safe to use from several threads."""

    def __init__(self, limits: CheckLimits | None = None) -> None:
        self._limits = limits or CheckLimits()
        self._one = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False

    def start(self) -> None:
        """Starts the process now, so that the first submission need not wait for its imports."""
        with self._one:
            self._running()

    def stop(self) -> None:
        """Ends the step that is under way, if one is: it raises InvalidInput. Returns at once; later steps find another
        process."""
        self._given_up = True
        if (process := self._process) is not None:
            _kill(process)

    def close(self) -> None:
        """Ends the process. It also ends by itself with this one."""
        self.stop()
        with self._one:
            self._end()

    def take(self, source: Path, folder: Path, limits: Limits, progress: Progress) -> None:  # noqa: ARG002
        """Takes a submission in, as `specs.market.examination.Checks` says; `progress` is told nothing."""
        self._ask("take", source, folder, limits, _no_progress)

    def check(self, folder: Path, requirements: Requirements, *, unfit_too: bool) -> Checked:
        """Checks a taken submission, as `specs.market.examination.Checks` says."""
        found: Checked = self._ask("check", folder, requirements, unfit_too=unfit_too)
        return found

    def check_again(self, folder: Path, requirements: Requirements) -> Learnware:
        """Checks a submission again, as `specs.market.examination.Checks` says."""
        found: Learnware = self._ask("check_again", folder, requirements)
        return found

    def _ask(self, step: str, *arguments: Any, **options: Any) -> Any:
        ask = Ask(step, arguments, options, self._limits.memory_bytes, self._limits.cpu_s)
        with self._one:
            if self._given_up:
                self._end()  # it may still be dying
                self._given_up = False
            process = self._running()
            try:
                answer = self._exchange(process, pickle.dumps(ask))
            except BaseException:
                self._end()
                raise
        if answer.died is not None:
            raise CheckDied(answer.died)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _exchange(self, process: subprocess.Popen[bytes], content: bytes) -> Answer:
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._limits.wall_s
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(len(content).to_bytes(LENGTH_BYTES, "big") + content)
            process.stdin.flush()
        head = self._read(process.stdout.fileno(), LENGTH_BYTES, deadline)
        length = int.from_bytes(head, "big")
        answer: Answer = pickle.loads(self._read(process.stdout.fileno(), length, deadline))  # noqa: S301 - our own
        return answer

    def _read(self, descriptor: int, count: int, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        parts = []
        while count:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise CheckDied(f"its check took more than {self._limits.wall_s:g} s")
            part = os.read(descriptor, min(count, 1 << 20))
            if not part:
                if self._given_up:
                    raise InvalidInput("the check was given up")
                raise CheckDied("its check was killed with the process that ran it")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "specs.market.check_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_environment(),
                start_new_session=True,  # so that its fork is killed with it
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


def _environment() -> dict[str, str]:
    """Returns the environment of the process: the present one without secrets, with one thread, so that it can fork,
    and the folder of this package."""
    kept = {name: value for name, value in os.environ.items() if not any(part in name.upper() for part in _SECRET)}
    paths = dict.fromkeys([str(Path(__file__).parents[2]), *kept.get("PYTHONPATH", "").split(os.pathsep)])
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is not None:
        return  # its number may be another process's by now
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _no_progress(_: int) -> None:
    """Says nothing: progress stays in the process that makes it."""
