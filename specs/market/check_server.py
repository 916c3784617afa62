"""A warm process that checks what strangers upload, each step in a fork of its own with limits on memory and time.

Run as `python -m specs.market.check_server` by `specs.market.child_checks`. It imports everything once and keeps one
thread, so that a fork costs some milliseconds; each fork answers one request and ends. Whatever a hostile file does to
a parser, it does to the fork: this process waits for it and says how it ended. It ends with its standard input, also in
the middle of a check, so that nothing outlives the market.

Messages are those of `specs.market.check_messages`.
"""

import os
import pickle
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specs.encoding.encoder import PROMPT_ENCODER, STATIC_ENCODER, load_encoder
from specs.errors import LearnwareError
from specs.market.check_messages import Answer, Ask, receive, send
from specs.market.examination import ChecksHere
from specs.market.writing import is_unwritable

NICENESS = 5
"""Increment of a fork's niceness: tokens of running answers come before a check."""
FILE_BYTES = 4 << 30
"""Size in bytes of the largest file that a fork may write; what is unpacked is bounded more closely by
`specs.market.submission.Limits`."""
OPEN_FILES = 512
"""The most files that a fork may have open, mapped ones included."""


def main() -> None:
    """Answers requests until standard input ends."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever prints here must not print between two messages
    for encoder in (STATIC_ENCODER, PROMPT_ENCODER):
        load_encoder(encoder)  # every specification's check needs one of them
    while (asked := receive(0)) is not None:
        send(out, _answered(pickle.loads(asked)))  # noqa: S301 - from the process that started this one


def _answered(ask: Ask) -> bytes:
    """Runs a step in a fork and returns its pickled `Answer`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run(ask, writing)
    os.close(writing)
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([reading, 0], [], [])
        if reading in ready:
            if not (part := os.read(reading, 1 << 20)):
                break
            parts.append(part)
        else:  # nothing is asked before the answer, so standard input has ended
            os.kill(pid, signal.SIGKILL)
            os._exit(1)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        return b"".join(parts)
    return pickle.dumps(Answer(died=_cause(status, ask)))


def _run(ask: Ask, writing: int) -> None:
    """Does a step and ends this process."""
    status = 1
    try:
        _limit(ask)
        content = pickle.dumps(_outcome(getattr(ChecksHere(), ask.step), ask))
        left = memoryview(content)
        while left:
            left = left[os.write(writing, left) :]
        status = 0
    finally:
        os._exit(status)


def _outcome(step: Callable[..., Any], ask: Ask) -> Answer:
    try:
        return Answer(step(*ask.arguments, **ask.options))
    except MemoryError:
        return Answer(died=_too_much_memory(ask))
    except LearnwareError as error:
        return Answer(error=error)
    except Exception as error:  # noqa: BLE001 - a fault of a check that a strange file found: it refuses that file
        if is_unwritable(error):
            return Answer(error=error)
        return Answer(died=f"its check failed with {type(error).__name__}: {str(error)[:200]}")


def _limit(ask: Ask) -> None:
    # Mapped files count as memory for RLIMIT_AS, not for RLIMIT_DATA, and weights are mapped: the base's, too.
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (used + ask.memory_bytes,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (ask.cpu_s, ask.cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes, not the market
    os.nice(NICENESS)


def _cause(status: int, ask: Ask) -> str:
    """Says how a fork ended that gave no answer."""
    if not os.WIFSIGNALED(status):
        return f"its check ended with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    if number == signal.SIGXCPU:
        return f"its check took more than {ask.cpu_s} s of computing time"
    if number == signal.SIGKILL:
        return "its check was killed by the system, as when memory runs out"
    return f"its check crashed ({signal.Signals(number).name})"


def _too_much_memory(ask: Ask) -> str:
    return f"its check needed more than {ask.memory_bytes >> 20} MiB of memory"


if __name__ == "__main__":
    main()
    sys.exit(0)
