# ruff: noqa: PTH100, PTH116, PTH118, PTH120, PTH123
"""Follows the key file while HAProxy runs: `key_watcher.py SETTINGS FOLDER ADMIN_SOCKET PID`.

The wrapper starts it beside each HAProxy (`serving.edge.haproxy_wrapper`); it ends with that process, whose child it
is, however that ends, and when another HAProxy has taken over the admin socket. It holds no port, no lock and no
standard stream.
"""

import os
import socket
import sys
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from serving.edge.key_maps import MAPS, State, current_state, maps
from serving.edge.settings import EdgeSettings, read_settings

#: Seconds between two looks at the key file and at HAProxy.
PERIOD_S = 0.25

#: Seconds after which the file is read again although it looks the same, for file systems that tell no change.
REREAD_S = 30.0

#: Seconds that HAProxy may take to answer on its admin socket.
TIMEOUT_S = 5.0

#: Pairs sent in one command: it must fit HAProxy's buffer, of 16 KiB while there is no router.
PAIRS_AT_ONCE = 100

#: File name, beside the maps, of what could not be used.
LOG = "edge.log"


def command(path: str, text: str) -> str:
    """Send one command to HAProxy and return its answer.

    Raises:
        OSError: nobody answers.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        connection.sendall(text.encode() + b"\n")
        chunks = []
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace").strip()


def owner(path: str) -> int | None:
    """Return the process that answers on the admin socket; None while nobody does."""
    try:
        lines = command(path, "show info").splitlines()
    except OSError:
        return None
    return next((int(line.partition(":")[2]) for line in lines if line.startswith("Pid:")), None)


def replace_map(path: str, file: str, pairs: dict[str, str]) -> None:
    """Replace a map of the running HAProxy in one step: no request sees it half.

    Raises:
        OSError: HAProxy does not answer, or refuses.
    """
    answer = command(path, f"prepare map {file}")
    version = answer.rpartition(" ")[2]
    if not version.isdigit():
        raise OSError(f"HAProxy did not prepare {file}: {answer}")
    items = [f"{key} {value}" for key, value in pairs.items()]
    for start in range(0, len(items), PAIRS_AT_ONCE):
        some = "\n".join(items[start : start + PAIRS_AT_ONCE])
        if answer := command(path, f"add map @{version} {file} <<\n{some}\n"):
            raise OSError(f"HAProxy did not take what {file} should hold: {answer}")
    if answer := command(path, f"commit map @{version} {file}"):
        raise OSError(f"HAProxy did not put {file} in force: {answer}")


class Watcher:
    """The watch over one key file for one HAProxy."""

    def __init__(self, settings: EdgeSettings, folder: str, admin_socket: str, haproxy: int) -> None:
        self._settings, self._folder, self._socket, self._haproxy = settings, folder, admin_socket, haproxy
        self._seen: object = None
        self._read_at = 0.0
        self._in_force: dict[str, dict[str, str]] = {}
        self._problem: str | None = None

    def wait_for_haproxy(self) -> bool:
        """Return once HAProxy answers; False if it ended before."""
        while owner(self._socket) != self._haproxy:  # at first perhaps the one that it replaces
            if not self._lives():
                return False
            time.sleep(PERIOD_S)
        return True

    def run(self) -> None:
        """Follow the file as long as HAProxy lives and has its admin socket."""
        while self._lives():
            try:
                self._look()
            except OSError as error:
                self._log(str(error))
                if owner(self._socket) not in (self._haproxy, None):
                    return  # it drains, and another one listens
            time.sleep(PERIOD_S)

    def _lives(self) -> bool:
        return os.getppid() == self._haproxy

    def _look(self) -> None:
        """Put in force what the file says, if it may have changed."""
        seen = _signature(self._settings.keys_file)
        if seen == self._seen and time.monotonic() - self._read_at < REREAD_S:
            return
        state: State = current_state(self._settings, self._folder)
        if state.problem != self._problem:
            self._problem = state.problem
            self._log(f"the keys stay as they were: {state.problem}" if state.problem else "the key file is good again")
        content = maps(self._settings, state)
        changed = [name for name in MAPS if self._in_force.get(name) != content[name]]
        if changed and owner(self._socket) != self._haproxy:
            raise OSError("another HAProxy has the admin socket, or none")
        for name in changed:
            replace_map(self._socket, os.path.join(self._folder, f"{name}.map"), content[name])
            self._in_force[name] = content[name]
        self._seen, self._read_at = seen, time.monotonic()

    def _log(self, line: str) -> None:
        with open(os.path.join(self._folder, LOG), "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")


def _signature(path: str | None) -> object:
    try:
        found = os.stat(path or "")
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


def main(arguments: list[str]) -> None:
    """Follow the key file of the settings until HAProxy ends."""
    settings, folder, admin_socket, haproxy = arguments
    watcher = Watcher(read_settings(settings), folder, admin_socket, int(haproxy))
    if watcher.wait_for_haproxy():
        watcher.run()


if __name__ == "__main__":
    main(sys.argv[1:])
