"""HAProxy's admin socket: close the frontend, and see whether requests are routed and whether some still run.

The names below are those of the configuration that Ray Serve 2.60 writes (`ray/serve/_private/haproxy_templates.py`).
One that is not in the running HAProxy is told in an error: nothing here takes it for an idle or an unready stack.
"""

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
from specs.errors import LearnwareError

_TIMEOUT_S = 2.0
"""Seconds to wait for HAProxy's answer, which it gives from memory, in milliseconds."""

_POLL_S = 0.1
"""Seconds between two looks."""

_FRONTEND = "http_frontend"
"""The frontend that clients reach."""

_ROUTED_BACKEND_SUFFIX = "-via-ingress-request-router"
"""How the name ends of a backend for requests whose replica the router chose."""

_REPLICA_PREFIX = "SERVE_REPLICA"
"""How the name of a replica's server begins: its actor's name. The other server is Ray's fallback proxy."""

_STATISTICS = "stats"
"""The statistics page, which is no application."""


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
        LearnwareError: one answers, and did not close a frontend of that name.
    """
    for path in instance.admin_sockets():
        if answer := command(path, f"disable frontend {_FRONTEND}").strip():
            raise LearnwareError(f"HAProxy still takes new requests: asked to disable {_FRONTEND}, it said {answer!r}")


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
        if unrouted(instance) is None:
            return True
        time.sleep(_POLL_S)
    return False


def unrouted(instance: Instance) -> str | None:
    """Says what keeps HAProxy from sending requests through a router to a replica, in words; None when it does so."""
    missing = "no HAProxy answers on its admin socket"
    for path in instance.admin_sockets():
        with suppress(OSError):
            gap = _unrouted(command(path, "show stat"))
            if gap is None:
                return None
            missing = gap
    return missing


def _unrouted(stat: str) -> str | None:
    rows = list(_rows(stat))
    routed = [row for row in rows if row["pxname"].endswith(_ROUTED_BACKEND_SUFFIX)]
    if not routed:
        return f"HAProxy has no backend *{_ROUTED_BACKEND_SUFFIX}; it has {_names(row['pxname'] for row in rows)}"
    replicas = [row for row in routed if row["svname"].startswith(_REPLICA_PREFIX)]
    if not replicas:
        servers = _names(row["svname"] for row in routed)
        return f"HAProxy has no server {_REPLICA_PREFIX}* in {routed[0]['pxname']}; it has {servers}"
    if not any(row["status"].startswith("UP") for row in replicas):
        states = _names(f"{row['svname']} {row['status']}" for row in replicas)
        return f"HAProxy reaches no replica: {states}"
    return None


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"


def _rows(stat: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(stat.removeprefix("# ")))


def _pid(info: str) -> int:
    return next((int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("Pid:")), 0)


def _backend_sessions(stat: str) -> int:
    """Requests being served or waiting, over all backends. The frontend's own count would include idle connections."""
    backends = (row for row in _rows(stat) if row["svname"] == "BACKEND" and row["pxname"] != _STATISTICS)
    return sum(int(row["scur"] or 0) for row in backends)


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
