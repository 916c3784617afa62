"""Starts servers under test, watches the memory of all their processes, and ends them."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from serving.processor import cpu_dtype

__all__ = ["BASE_MODEL_ID", "Server", "ServerError", "cpu_dtype", "embedded_base", "free_port"]

BASE_MODEL_ID = "SmolLM2-135M-Instruct"
"""Id of the embedded base model, which all servers here serve."""
MARK = "LEARNWARE_BENCHMARK_RUN"
"""Environment variable of a server and of every process that it starts, by which they are found even when their parent
is gone."""

KIB = 1024

PORTS = (10_000, 17_000)
STACK_PORTS = (0, 404, 800, 1_101)
"""A stack listens on its HTTP port and on ports at these distances from it."""


class ServerError(Exception):
    """A server did not start, or ended too soon."""


def _stat(process: Path) -> list[str]:
    """Returns the fields of proc(5)'s `stat` from the third one, `state`, on: 1 is the parent, 11 and 12 are user and
    system time."""
    return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _runs(process: int) -> bool:
    try:
        return _stat(Path(f"/proc/{process}"))[0] != "Z"
    except OSError:
        return False


class Server:
    """A running command that serves HTTP at `url`, with every process that descends from it."""

    def __init__(self, name: str, command: Sequence[str], url: str, log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.url, self.log = name, url, log
        self.started = time.perf_counter()
        self.peak_bytes = 0
        self._mark = f"{MARK}={uuid.uuid4()}"
        key, _, value = self._mark.partition("=")
        self._out = log.open("wb")
        self._process = subprocess.Popen(
            list(command),
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment) | {key: value},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The id of the command's own process."""
        return self._process.pid

    def wait_for(
        self, path: str, timeout_s: float, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Asks twice a second, with `headers`, until the answer is 200, and returns its body.

        Raises:
            ServerError: the process ended, or no such answer came in time; with the end of its output.
        """
        end = time.perf_counter() + timeout_s
        request = urllib.request.Request(  # noqa: S310  # our own loopback URL
            self.url + path, data=body, headers={"Content-Type": "application/json", **(headers or {})}
        )
        while time.perf_counter() < end:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended with status {self._process.returncode}:\n{self._tail()}")
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                    content: bytes = answer.read()
                    return content
            except (urllib.error.URLError, OSError):
                self.measure_memory()
                time.sleep(0.5)
        raise ServerError(f"{self.name} did not answer {path} within {timeout_s:.0f} s:\n{self._tail()}")

    def processes(self) -> list[int]:
        """Returns the ids of the server's running processes: marked ones and their descendants. (A process that writes
        itself a long title, as vLLM's do, overwrites its environment and with that the mark.)"""
        mark, marked, children = self._mark.encode(), {self._process.pid}, defaultdict(list)
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent, environment = _stat(entry)[1], (entry / "environ").read_bytes()
            except OSError:
                continue  # gone meanwhile, or another user's
            children[int(parent)].append(int(entry.name))
            if mark in environment.split(b"\0"):
                marked.add(int(entry.name))
        found, waiting = set(), list(marked)
        while waiting:
            process = waiting.pop()
            if process not in found:
                found.add(process)
                waiting += children[process]
        return sorted(process for process in found if _runs(process))

    def measure_memory(self) -> int:
        """Returns the bytes that all processes use now, shared pages counted once (PSS), and keeps the largest value so
        far."""
        total = 0
        for process in self.processes():
            try:
                lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) * KIB for line in lines if line.startswith("Pss:"))
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def cpu_seconds(self) -> float:
        """Returns the CPU seconds that the running processes have used since they started."""
        ticks = 0
        for process in self.processes():
            try:
                user, system = _stat(Path(f"/proc/{process}"))[11:13]
            except OSError:
                continue
            ticks += int(user) + int(system)
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self, timeout_s: float = 60) -> None:
        """Ends the server: SIGTERM, and after `timeout_s` SIGKILL to the processes that are left."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for process in self._left_after(5):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._left_after(5)
        self._out.close()

    def _left_after(self, seconds: float) -> list[int]:
        """Returns the processes that still run after at most this many seconds."""
        end = time.perf_counter() + seconds
        while (left := self.processes()) and time.perf_counter() < end:
            time.sleep(0.1)
        return left

    def _tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


def free_port() -> int:
    """Returns a port of the loopback interface with which a stack or a server can start: nothing listens on it, nor on
    those that a stack derives from it. It lies below those that the system gives to connections, which could take one
    before the server binds it.

    Raises:
        OSError: none was found.
    """
    for _ in range(100):
        port = random.randrange(*PORTS)
        with ExitStack() as probes:
            try:
                for offset in STACK_PORTS:
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found between {PORTS[0]} and {PORTS[1]}")


def embedded_base() -> str:
    """Returns the folder of the embedded base model, prepared through the command line as an operator would."""
    program = str(Path(sys.executable).with_name("learnware-serving"))
    made = subprocess.run([program, "base-model"], capture_output=True, text=True, check=True)
    return made.stdout.strip().splitlines()[-1].split()[-1]
