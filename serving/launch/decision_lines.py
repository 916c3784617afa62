"""Prints the records of decisions on the launcher's standard output (`decisions.stdout`).

The application that keeps them runs in a process of Ray's, whose output goes to a file. So it writes its JSON lines to
a Unix socket in the run folder, and the launcher prints what comes. Each record is one line that begins with `{`; the
launcher's own lines never do, so `learnware-serving serve | grep '^{'` is the records alone.
"""

import contextlib
import socket
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from serving.launch.instance import Instance

SOCKET = "decisions"
"""File name of the socket in the run folder."""
LINE_BYTES = 1 << 20
"""Bytes of the longest line; a longer one is cut, as none of a record is."""
LOOK_S = 0.2
"""Seconds between two looks whether the launcher ends."""


def socket_of(instance: Instance) -> Path:
    """Returns the path of the socket in a stack's run folder."""
    return instance.folder / SOCKET


class DecisionLines:
    """Listens in a thread of its own inside a `with` block, and prints each line as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="decision-lines", daemon=True)

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(self._path))
        self._path.chmod(0o600)
        self._server.listen()
        self._server.settimeout(LOOK_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._server.close()
        self._path.unlink(missing_ok=True)

    def _listen(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with connection, contextlib.suppress(OSError, ValueError):
                connection.settimeout(LOOK_S)
                self._print_from(connection)

    def _print_from(self, connection: socket.socket) -> None:
        """Prints the lines of one writer until it or the launcher ends. The application is one, and connects anew
        when it was replaced."""
        kept = b""
        while True:
            try:
                taken = connection.recv(1 << 16)
            except TimeoutError:
                if self._ended.is_set():
                    return
                continue
            if not taken:
                return
            *lines, kept = (kept + taken).split(b"\n")
            kept = kept[:LINE_BYTES]
            if lines:
                print("\n".join(line.decode("ascii", "replace") for line in lines), flush=True)
