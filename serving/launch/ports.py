"""The ports of one running stack, the processes that hold them, and what an earlier stack left behind.

Ray Serve 2.60 opens six ports that are fixed unless told otherwise; two stacks with the defaults collide, one of them
quietly (a stale HAProxy that still knows a port which now belongs to the other stack's replica). Here each is derived
from the HTTP port:

| port | Ray's default, and where it is read | ours for HTTP port P |
|---|---|---|
| HTTP frontend | 8000, `serve/_private/constants.py:43` | P |
| fallback Python proxy | 8500, `constants.py:46` | P + 800 |
| HAProxy statistics page | 8404, `constants.py:848` | P + 404 |
| HAProxy exporter | 9101, `constants.py:843` | P + 1101 |
| replicas' own HTTP servers | 30000 to 31000, `constants.py:1048` | a block of 100 between 20000 and 32767 |
| replicas' own gRPC servers | 40000 to 41000, `constants.py:1051` | not opened: no gRPC service is registered |
"""

import errno
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

from specs.errors import StartupError

REPLICA_PORTS = 100
"""Number of ports in a stack's replica block: an engine and two routers need three, each replaced replica holds its old
one in quarantine (`RAY_SERVE_PORT_QUARANTINE_S`, the hard stop plus 30 s), and a busy one is skipped."""

REPLICA_PORTS_START, REPLICA_PORTS_END = 20_000, 32_768
"""Bounds of the replica blocks, between Ray's worker ports (10002 to 19999, `ray start --min-worker-port`) and Linux'
ephemeral ones (from 32768)."""

_KILL_AFTER_S = 3.0
"""Seconds that a left-over process may take to end on SIGTERM before it is killed."""


class Ports(NamedTuple):
    """Every fixed port of one stack; `replicas` is the first of `REPLICA_PORTS`."""

    http: int
    fallback: int
    stats: int
    exporter: int
    replicas: int

    def named(self) -> dict[str, int]:
        """Returns the single ports by the name of what listens there, for messages."""
        return {
            "HTTP": self.http,
            "fallback proxy": self.fallback,
            "HAProxy statistics": self.stats,
            "HAProxy metrics": self.exporter,
        }


def derive_ports(http: int) -> Ports:
    """Returns the ports of the stack whose HTTP port is `http`; neighbouring HTTP ports share none of them.

    Raises:
        StartupError: `http` leaves no room above it.
    """
    if not 1 <= http <= 65_535 - 1_101:
        raise StartupError(
            f"HTTP port {http}: choose one from 1 to {65_535 - 1_101}, since the stack's other ports follow from it"
        )
    blocks = (REPLICA_PORTS_END - REPLICA_PORTS_START) // REPLICA_PORTS
    return Ports(http, http + 800, http + 404, http + 1_101, REPLICA_PORTS_START + http % blocks * REPLICA_PORTS)


class Holder(NamedTuple):
    """A process that listens on a port; its pid is None, and its command empty, when it belongs to another user."""

    port: int
    pid: int | None
    command: str

    def __str__(self) -> str:
        who = f"process {self.pid} ({self.command})" if self.pid else "a process of another user"
        return f"port {self.port} is held by {who}"


def listeners(pids: Iterable[int] | None = None) -> list[tuple[str, int, int | None]]:
    """Returns the listening TCP sockets as (address, port, pid), of the given processes only or of the whole machine.
    The pid is None when it may not be seen."""
    wanted = None if pids is None else set(pids)
    return [
        (entry.laddr.ip, entry.laddr.port, entry.pid)
        for entry in psutil.net_connections("tcp")
        if entry.status == psutil.CONN_LISTEN and entry.laddr and (wanted is None or entry.pid in wanted)
    ]


def holder_of(port: int) -> Holder | None:
    """Returns the process that listens on a TCP port of this machine, whichever its address; None when none does."""
    for _, held, pid in listeners():
        if held == port:
            return Holder(port, pid, _command(pid))
    return None


def check_ports_free(ports: Ports, host: str) -> None:
    """Returns when the stack can listen on all its ports.

    Raises:
        StartupError: a port is taken or may not be bound; the message names every busy port with the process that holds
            it.
    """
    held = {port: pid for _, port, pid in listeners()}
    busy: list[str] = []
    for name, port in ports.named().items():
        if port in held:
            busy.append(f"{Holder(port, held[port], _command(held[port]))}, needed for {name}")
        elif problem := _cannot_bind(host if name == "HTTP" else "127.0.0.1", port):
            busy.append(f"port {port}, needed for {name}: {problem}")
    block = range(ports.replicas, ports.replicas + REPLICA_PORTS)
    if len(taken := [port for port in block if port in held]) > REPLICA_PORTS // 2:
        busy.append(f"{len(taken)} of the ports {block[0]} to {block[-1]}, needed for replicas, are taken")
    if busy:
        raise StartupError(f"{'; '.join(busy)}. Stop it, or choose another HTTP port: the other ports follow from it.")


def _cannot_bind(host: str, port: int) -> str | None:
    """Returns why a socket cannot be bound there; None when it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "in use"
            return f"cannot listen on {host}: {os.strerror(error.errno or 0)}"
        return None


def _command(pid: int | None) -> str:
    if pid is None:
        return ""
    try:
        return " ".join(psutil.Process(pid).cmdline())[:160]
    except psutil.Error:
        return "?"


def haproxies_of(folder: Path) -> list[psutil.Process]:
    """Returns the HAProxy processes, current or soft-stopping, whose configuration lies in a stack's run folder."""
    prefix = f"{folder}{os.sep}"
    return [
        process
        for process in psutil.process_iter()
        if "-f" in (line := _cmdline(process))
        and any(part.startswith(prefix) and part.endswith(".cfg") for part in line)
    ]


def ray_processes_of(folder: Path) -> list[psutil.Process]:
    """Returns Ray's processes whose session lies in a stack's run folder (GCS, raylet, agents and workers), except this
    process and its parents.

    GCS, raylet and agents name the session's folder on their command line; a worker that runs an actor has replaced its
    own by a title (`ray::…`, vLLM's `VLLM::…`), but keeps the environment that it was started with.
    """
    text = str(folder / "ray")
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _belongs(process, text)]


def _belongs(process: psutil.Process, text: str) -> bool:
    line = " ".join(_cmdline(process))
    if text in line and "ray" in line:
        return True
    if not line.startswith(("ray::", "VLLM::", "ray-")):
        return False
    try:
        return process.environ().get("RAY_TMPDIR", "").startswith(str(Path(text).parent))
    except (psutil.Error, OSError):
        return False


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def end_processes(processes: Iterable[psutil.Process], grace_s: float = _KILL_AFTER_S) -> list[int]:
    """Asks each process to end (SIGTERM) and kills those that have not ended after `grace_s` seconds. Returns the pids
    of those that were alive."""
    alive = [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    _signal(alive, signal.SIGTERM)
    _, stubborn = psutil.wait_procs(alive, timeout=grace_s)
    _signal(stubborn, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=_KILL_AFTER_S)
    return [process.pid for process in alive]


def _signal(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_until_free(ports: Ports, timeout_s: float) -> None:
    """Waits until no process listens on the single ports any more, at most `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    wanted = set(ports.named().values())
    while time.monotonic() < deadline and any(port in wanted for _, port, _ in listeners()):
        time.sleep(0.1)


def end_leftovers(folder: Path, say: Callable[[str], None]) -> None:
    """Ends what a killed stack with this run folder left behind: HAProxy outlives Ray and keeps its port.

    Call it only after making sure that no such stack runs (`serving.launch.instance.claim`).
    """
    for kind, processes in (("HAProxy", haproxies_of(folder)), ("Ray", ray_processes_of(folder))):
        if processes:
            pids = ", ".join(str(process.pid) for process in processes)
            say(f"Ending what an earlier run left behind: {kind}, process {pids}")
            end_processes(processes)
