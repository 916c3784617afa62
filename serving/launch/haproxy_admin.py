"""Commands and reads HAProxy through its admin socket: closes the frontend, and counts running requests."""

import csv
import io
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from serving.launch.instance import Instance
from serving.launch.ports import REPLICA_PORTS, haproxies_of

_TIMEOUT_S = 2.0
"""Seconds to wait for HAProxy's answer, which it gives from memory, in milliseconds."""

_POLL_S = 0.1
"""Seconds between two looks."""

_ROUTED_BACKEND_SUFFIX = "-via-ingress-request-router"
"""Ending of the name that Ray 2.60 gives to the backend for requests whose replica the router chose
(`haproxy_templates.py`)."""


def command(path: Path, text: str) -> str:
    """Sends one command and returns its answer.

    Raises:
        OSError: nobody answers there (HAProxy is gone, or is being replaced).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(text.encode() + b"\n")
        chunks = []
        while chunk := connection.recv(65_536):
            chunks.append(chunk)
    return b"".join(chunks).decode(errors="replace")


def refuse_new_connections(instance: Instance) -> None:
    """Closes the frontend's listening sockets; running requests go on.

    Raises:
        OSError: no HAProxy answers.
    """
    for path in instance.admin_sockets():
        command(path, "disable frontend http_frontend")


def running_requests(instance: Instance) -> int:
    """Returns how many requests the stack's HAProxy processes still carry; 0 when none of them is alive.

    The current process reports its own. An old one, which serves its streams to the end after a change of topology, has
    lost the admin socket: each of its client connections that can be matched by a connection to a replica counts as a
    request.
    """
    current: set[int] = set()
    total = 0
    for path in instance.admin_sockets():
        try:
            current.add(_pid(command(path, "show info")))
            total += _backend_sessions(command(path, "show stat"))
        except OSError:
            continue
    return total + sum(
        _proxied_connections(process, instance)
        for process in haproxies_of(instance.folder)
        if process.pid not in current
    )


def wait_until_routed(instance: Instance, timeout_s: float) -> bool:
    """Waits until HAProxy sends requests through a router to a replica; returns whether it does.

    Ray reports an application as ready half a second or more before HAProxy has reloaded: until then requests pass
    through Ray's fallback proxy without a choice.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(OSError):
            if any(_is_routed(command(path, "show stat")) for path in instance.admin_sockets()):
                return True
        time.sleep(_POLL_S)
    return False


def _is_routed(stat: str) -> bool:
    return any(
        row["pxname"].endswith(_ROUTED_BACKEND_SUFFIX)
        and row["svname"].startswith("SERVE_REPLICA")
        and row["status"].startswith("UP")
        for row in _rows(stat)
    )


def _rows(stat: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(stat.removeprefix("# ")))


def _pid(info: str) -> int:
    return next((int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("Pid:")), 0)


def _backend_sessions(stat: str) -> int:
    """Sums the requests being served or waiting over all backends. The frontend's own count would include idle
    connections."""
    return sum(int(row["scur"] or 0) for row in _rows(stat) if row["svname"] == "BACKEND" and row["pxname"] != "stats")


def _proxied_connections(process: psutil.Process, instance: Instance) -> int:
    first = instance.ports.replicas
    block = {*range(first, first + REPLICA_PORTS), instance.ports.fallback}
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return 0
    open_ones = [entry for entry in connections if entry.status == psutil.CONN_ESTABLISHED and entry.raddr]
    clients = sum(entry.laddr.port == instance.ports.http for entry in open_ones)
    return min(clients, sum(entry.raddr.port in block for entry in open_ones))
