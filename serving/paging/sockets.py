"""Messages between the front end of an engine and the processes behind it: lines of JSON over Unix sockets.

vLLM's own channel to a worker (`collective_rpc`) runs between two steps and waits for them; these messages are read by
threads of their own. A worker is told to `lease` adapters and to `release` them, and answers `ready` or `failed`;
workers and scheduler push `report` when something has changed.

    front end → worker      {"lease": 7, "name": …, "id": …, "path": …}    {"release": 7}
    worker → front end      {"ready": 7}    {"failed": 7, "reason": …}    {"report": {…}}
    front end → scheduler   {"forget": 3}    adapter number 3 has left its slot
    scheduler → front end   {"report": {…}}
    front end → either      {"ping": 4}     answered with {"pong": 4}

A connection that ends gives its leases back. A ping is answered by the thread that reads, so a long step delays no
answer; a process that is stopped or dead gives none.
"""

import json
import logging
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from serving.paging.tier import HostTier
from specs.errors import StartupError

logger = logging.getLogger(__name__)

R = TypeVar("R")

PUSH_INTERVAL_S = 0.1
"""Shortest time in seconds between two reports: fresh enough for routing, and cheap beside a step of the engine."""

SCHEDULER = "scheduler"
"""Name of the scheduler's socket; a worker's is its rank."""


def socket_path(instance: str, part: str) -> Path:
    """Returns the socket's path for `part` (`SCHEDULER`, or a worker's rank) of a vLLM instance.

    It lies in a folder that only this user can enter, because whoever can write to a worker's socket can have files
    read.

    Raises:
        StartupError: that folder belongs to another user, or others can enter it.
    """
    folder = Path(tempfile.gettempdir()) / f"learnware-serving-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise StartupError(f"{folder} must be a folder that belongs to this user alone (chmod 700)")
    return folder / f"{instance}-{part}.sock"


class Connection:
    """A connection to one peer. `send` may be called by any thread."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message as one line. A peer that is gone is no error here; the thread that reads from it notices."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._peer.sendall(line)
            except OSError:
                logger.debug("the peer is gone")

    def lines(self) -> Any:
        """Yields the messages that come, until the peer ends the connection. It answers pings itself."""
        with self._peer, self._peer.makefile("rb") as file:
            for line in file:
                message = json.loads(line)
                if "ping" in message:
                    self.send({"pong": message["ping"]})
                else:
                    yield message


class ReportSocket:
    """Listens on a Unix socket and pushes `report()` to every peer: when it connects, and whenever `changed` is set."""

    def __init__(self, path: Path, changed: threading.Event, report: Callable[[], dict[str, Any]]) -> None:
        self._changed, self._report = changed, report
        self._connections: set[Connection] = set()
        self._path = path
        path.unlink(missing_ok=True)  # left by an instance that is gone; names are random
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        for work in (self._accept, self._push):
            threading.Thread(target=work, name="adapter-reports", daemon=True).start()

    def close(self) -> None:
        """Stops listening."""
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def handle(self, connection: Connection) -> None:
        """Serves one peer until it ends the connection."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(Connection(peer),), name="adapter-peer", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        connection.send({"report": self._report()})
        self._connections.add(connection)
        try:
            self.handle(connection)
        except (OSError, ValueError, KeyError) as error:
            logger.warning("a peer was cut off: %s", error)
        finally:
            self._connections.discard(connection)

    def _push(self) -> None:
        pause = threading.Event()
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._connections:
                report = {"report": self._report()}
                for connection in tuple(self._connections):
                    connection.send(report)
            pause.wait(PUSH_INTERVAL_S)


class SchedulerSocket(ReportSocket):
    """The scheduler's socket. `forget` is called, by a thread of its own, with the number of each adapter that was
    removed."""

    def __init__(
        self,
        path: Path,
        changed: threading.Event,
        report: Callable[[], dict[str, Any]],
        forget: Callable[[int], None],
    ) -> None:
        self._forget = forget
        super().__init__(path, changed, report)

    def handle(self, connection: Connection) -> None:
        """Passes the numbers of removed adapters to `forget`."""
        for message in connection.lines():
            self._forget(message["forget"])


class _Lease(NamedTuple, Generic[R]):
    request: R
    granted: bool


class WorkerSocket(ReportSocket, Generic[R]):
    """A worker's socket: grants leases of its host tier, besides pushing reports. `make` turns a message into the
    tier's request."""

    def __init__(
        self,
        path: Path,
        changed: threading.Event,
        report: Callable[[], dict[str, Any]],
        tier: HostTier[R, Any],
        make: Callable[[dict[str, Any]], R],
    ) -> None:
        self._tier, self._make = tier, make
        super().__init__(path, changed, report)

    def handle(self, connection: Connection) -> None:
        """Grants and takes back leases; when the connection ends, it releases those that are left."""
        leases: dict[int, _Lease[R]] = {}
        ended = False
        lock = threading.Lock()  # around the two above: grants come from the loader's thread

        def grant(number: int, request: R) -> Callable[[str | None], None]:
            def done(reason: str | None) -> None:
                with lock:
                    wanted = number in leases and not ended
                    if wanted and reason is None:
                        leases[number] = _Lease(request, granted=True)
                    else:
                        leases.pop(number, None)
                if reason is not None:
                    connection.send({"failed": number, "reason": reason})
                elif wanted:
                    connection.send({"ready": number})
                else:
                    self._tier.release(request)

            return done

        try:
            for message in connection.lines():
                if "lease" in message:
                    number, request = message["lease"], self._make(message)
                    with lock:
                        leases[number] = _Lease(request, granted=False)
                    self._tier.acquire(request, grant(number, request))
                elif "release" in message:
                    with lock:
                        lease = leases.pop(message["release"], None)
                    if lease is not None and lease.granted:
                        self._tier.release(lease.request)
        finally:
            with lock:
                ended = True
                left = [lease.request for lease in leases.values() if lease.granted]
                leases.clear()
            for request in left:
                self._tier.release(request)
