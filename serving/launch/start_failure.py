"""Why a replica could not start, in one line, from what Ray Serve and the engine's processes have written.

Serve's message holds the whole traceback of the replica's constructor. Its last exception says what went wrong, except
where the engine runs in a process of its own: then it says only that this process failed, whose log has the reason.
"""

import re
from pathlib import Path
from typing import Any

_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(
    r"(?:[A-Za-z_]\w*\.)*(?P<name>[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Config|Input|Learnware))(?:: |$)",
    re.MULTILINE,
)
"""The beginning of the line after a traceback's frames: the exception's class, with its modules."""
_PLAIN = frozenset({"RuntimeError", "ValueError", "StartupError", "InvalidConfig", "InvalidInput", "InvalidLearnware"})
"""Classes whose name adds nothing to their words."""
_IN_THE_LOG = ("Engine core initialization failed", "WorkerProc initialization failed")
"""The words that vLLM 0.29 raises for an exception in another process of the engine (`v1/engine/utils.py`,
`v1/executor/multiproc_executor.py`)."""
_PREFIX = re.compile(r"(?:\([^)]*\) )?ERROR [\d-]+ [\d:]+ \[[^\]]*\] ?")
"""The beginning of each line of an error that one of vLLM's processes logs."""
_LOGS = ("worker-*.out", "worker-*.err")
"""Ray's names of the files with what replicas and their processes print, in a session's folder of logs."""
_READ_BYTES = 1 << 20
"""Bytes read from the end of each log; a start that fails writes a few hundred lines."""
_NOISE = re.compile(r"\[type=[^\]]*input_type=\w+\]|For further information visit \S+|\x1b\[[\d;]*m")
"""Matches what pydantic adds to each problem for programmers, and colours."""
LONGEST = 600
"""Characters of a cause that are shown."""


def told(name: str, application: Any, run_folder: Path) -> str:
    """Returns one line with the cause of a failed application (`ray.serve.schema.ApplicationStatusOverview`), and one
    with where its logs are."""
    logs = run_folder / "ray" / "session_latest" / "logs"
    messages = {
        deployment: status.message
        for deployment, status in application.deployments.items()
        if status.message and status.status not in ("HEALTHY", "UPDATING")
    }
    causes = {deployment: cause_of(message, logs) for deployment, message in messages.items()}
    said = [f"{deployment} failed to start: {cause}" for deployment, cause in causes.items()]
    said = said or [f"{name} failed to start: {cause_of(application.message, logs)}"]
    return "\n".join([*said, f"logs: {logs.resolve()}"])


def cause_of(message: str, logs: Path) -> str:
    """Returns the cause that a message of Serve's holds, without its traceback; where it is in the log of another
    process, that one's, as far as it can be found below `logs`."""
    cause = _last_exception(message.splitlines()) or message
    if any(words in cause for words in _IN_THE_LOG):
        cause = _logged_cause(logs) or cause
    cause = " ".join(_NOISE.sub("", cause).split())
    return cause if len(cause) <= LONGEST else f"{cause[:LONGEST].rsplit(' ', 1)[0]} …"


def _last_exception(lines: list[str]) -> str | None:
    """Returns the words of the last exception of which `lines` hold a traceback, without the frames; None where there
    is none. Words that say nothing without their class keep it."""
    starts = [number for number, line in enumerate(lines) if line.strip().endswith(_TRACEBACK)]
    after = lines[starts[-1] + 1 :] if starts else lines
    raised = next((number for number, line in enumerate(after) if _EXCEPTION.match(line)), None)
    if raised is None:
        return None
    text = "\n".join(after[raised:])
    found = _EXCEPTION.match(text)
    assert found is not None
    words = text[found.end() :].strip()
    return words if words and found["name"] in _PLAIN else text


def _logged_cause(logs: Path) -> str | None:
    """Returns the exception of the process that failed first: that of the log in which one of the engine's processes
    wrote a traceback whose exception does not refer to another one."""
    for pattern in _LOGS:
        for path in sorted(logs.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _READ_BYTES))
                text = file.read().decode(errors="replace")
            lines = [line[prefix.end() :] for line in text.splitlines() if (prefix := _PREFIX.match(line))]
            found = [
                line for line in lines if _EXCEPTION.match(line) and not any(words in line for words in _IN_THE_LOG)
            ]
            if found:
                return _last_exception([found[0]])
    return None
