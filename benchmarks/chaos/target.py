"""The stack under test: its address, its tenants' keys, its processes, and what it and its HAProxy tell of themselves.

Everything is asked over HTTP, as an operator would; only signals go to processes, and only to those that descend from
this stack's own launcher.
"""

import asyncio
import contextlib
import csv
import hashlib
import io
import json
import re
import resource
import secrets
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from benchmarks.common.servers import Server, free_port

FIRST, SECOND = "chaos-one", "chaos-two"
"""Names of the two tenants."""
STATISTICS_PORT = 404
"""Distance from the HTTP port of HAProxy's statistics page."""
ROUTED_BACKEND = "-via-ingress-request-router"
REPLICA_SERVER = "SERVE_REPLICA"
LOG_TARGET = "RAY_SERVE_HAPROXY_LOG_TARGET"
"""Environment variable with the address, as HOST:PORT, to which HAProxy logs each request over UDP; Ray writes it into
HAProxy's configuration."""
START_TIMEOUT_S = 600.0
TRIED_S = 10.0


class Role:
    """Words of a process's command line by which its role is told."""

    REPLICA = "ServeReplica:learnware:engine"
    CORE = "EngineCore"
    MARKET = "ServeReplica:market"
    ROUTER = "ServeReplica:learnware:router"
    HAPROXY = "haproxy"


class Target(NamedTuple):
    """A running stack. `keys` maps a tenant to its key and is empty for a stack without keys; `root` is the launcher's
    process, None where no process may be touched."""

    url: str
    keys: Mapping[str, str] = {}
    admin_key: str | None = None
    root: int | None = None
    replicas: int = 1
    log_port: int | None = None
    """The UDP port of this machine to which the stack's HAProxy logs, None where it is not known."""

    def headers(self, tenant: str = FIRST) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"} if self.keys else {}

    @property
    def admin_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_key}"} if self.admin_key else self.headers()

    def get(self, path: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = TRIED_S) -> bytes:
        """Returns the body of a GET that must succeed.

        Raises:
            OSError: no answer, or another status than 200 (`urllib.error.HTTPError`).
        """
        return self.call("GET", path, headers=headers, timeout_s=timeout_s)

    def call(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TRIED_S,
    ) -> bytes:
        """Returns the body of an answer with a status below 300.

        Raises:
            OSError: no answer, or another status (`urllib.error.HTTPError`).
        """
        sent = self.headers() if headers is None else dict(headers)
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content

    def metrics(self, timeout_s: float = TRIED_S) -> str:
        return self.get("/metrics", timeout_s=timeout_s).decode(errors="replace")

    def is_answering(self) -> bool:
        """Tells whether a request for one token is answered."""
        body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        headers = {"Content-Type": "application/json", **self.headers()}
        try:
            self.call("POST", "/v1/chat/completions", json.dumps(body).encode(), headers=headers, timeout_s=60)
        except OSError:
            return False
        return True

    # -- processes

    def processes(self) -> list[psutil.Process]:
        """Returns the launcher and everything that descends from it; nothing where it is not known or gone."""
        if self.root is None:
            return []
        try:
            root = psutil.Process(self.root)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def of_role(self, role: str) -> list[psutil.Process]:
        """Returns the running processes of a role, by age."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if role in title(process) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return sorted(found, key=lambda one: one.pid)

    # -- HAProxy

    def replicas_up(self) -> set[str] | None:
        """Returns the names of the engine replicas that HAProxy sends chosen requests to; None where it does not
        answer, as for a moment at each change of topology."""
        port = int(self.url.rpartition(":")[2]) + STATISTICS_PORT
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats;csv", timeout=5) as answer:
                text: str = answer.read().decode(errors="replace")
        except OSError:
            return None
        return up_in(text)


def title(process: psutil.Process) -> str:
    """Returns the command line of a process, or its name where it has none."""
    line = " ".join(process.cmdline()).strip()
    return line or process.name()


def up_in(statistics: str) -> set[str]:
    """Returns the replicas that a page of HAProxy's statistics, in CSV, names as up."""
    rows = csv.DictReader(io.StringIO(statistics.removeprefix("# ")))
    return {
        row["svname"]
        for row in rows
        if row["pxname"].endswith(ROUTED_BACKEND)
        and row["svname"].startswith(REPLICA_SERVER)
        and row["status"].startswith("UP")
    }


def metric(text: str, name: str, **labels: str) -> float:
    """Returns the sum of all samples of a metric whose labels include these."""
    total = 0.0
    for found in re.finditer(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", text, flags=re.MULTILINE):
        if all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            total += float(found[2])
    return total


# -- the stack of its own


def key_file(path: Path, tenants: Mapping[str, str]) -> None:
    """Writes the file of API keys, tenant to key, readable by its owner only."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "created": now, "metrics": True}
        for name, key in tenants.items()
    ]
    path.touch(mode=0o600)
    path.write_text(json.dumps({"format": 1, "keys": keys}), encoding="utf-8")


class Setting(NamedTuple):
    """A stack as a scenario asks for it."""

    replicas: int = 2
    limits: tuple[tuple[str, int], ...] = ()
    """Settings of the section `limits`, by key."""
    market: Path | None = None


ENGINE = {"slots": 8, "max_num_seqs": 8, "max_model_len": 1024}


def configuration(setting: Setting, port: int, keys: Path | None, admin_key: str) -> dict[str, Any]:
    """Returns the stack's configuration: small batches, so that a line forms on a small machine too."""
    config: dict[str, Any] = {
        "http": {"port": port},
        "engine": ENGINE | {"replicas": setting.replicas},
        "market": {"admin_key": admin_key, "path": None if setting.market is None else str(setting.market)},
    }
    if setting.limits:
        config["limits"] = dict(setting.limits)
    if keys is not None:
        config["keys"] = {"file": str(keys)}
    return config


@contextmanager
def running(setting: Setting, scratch: Path, *, with_keys: bool, logs: Path) -> Iterator[tuple[Target, Server]]:
    """Starts a stack, waits until it answers from all its replicas, and ends it at last.

    Raises:
        ServerError: it did not start.
    """
    port, log_port = free_port(), free_udp_port()
    keys = {name: secrets.token_urlsafe(24) for name in (FIRST, SECOND)} if with_keys else {}
    file = scratch / f"keys-{port}.json" if with_keys else None
    if file is not None:
        key_file(file, keys)
    admin_key = secrets.token_urlsafe(24)
    config = scratch / f"config-{port}.yaml"
    config.write_text(json.dumps(configuration(setting, port, file, admin_key)), encoding="utf-8")  # JSON is YAML
    command = [str(Path(sys.executable).with_name("learnware-serving")), "serve", "--config", str(config)]
    environment = {LOG_TARGET: f"127.0.0.1:{log_port}"}
    logs.mkdir(parents=True, exist_ok=True)
    server = Server("the stack", command, f"http://127.0.0.1:{port}", logs / f"stack-{port}.log", environment)
    target = Target(server.url, keys, admin_key, server.pid, setting.replicas, log_port)
    try:
        server.wait_for("/health", START_TIMEOUT_S)
        wait_until_whole(target, START_TIMEOUT_S)
        yield target, server
    finally:
        server.stop()


def wait_until_whole(target: Target, timeout_s: float) -> float | None:
    """Waits until every replica is up and a request is answered; returns the seconds, None if it took too long."""
    started = time.monotonic()
    while time.monotonic() < started + timeout_s:
        if len(target.replicas_up() or ()) >= target.replicas and target.is_answering():
            return time.monotonic() - started
        time.sleep(0.5)
    return None


def free_udp_port() -> int:
    """Returns a UDP port of the loopback interface that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- HAProxy's log


class Logged(NamedTuple):
    """A request as HAProxy logged it: status, and the milliseconds from its first byte to the end of the answer."""

    status: int
    total_ms: int
    backend: str


LOG_LINE = re.compile(r" \S+ (\S+)/\S+ (-?\d+)/(-?\d+)/(-?\d+)/(-?\d+)/\+?(\d+) (-?\d+) ")
"""The part of a line of HAProxy's `httplog` with backend and server, the timers TR/Tw/Tc/Tr/Ta, and the status."""


def logged_in(line: str) -> Logged | None:
    """Returns what a line of HAProxy's log says of a request; None for a line of another kind."""
    found = LOG_LINE.search(line)
    return None if found is None else Logged(int(found[7]), int(found[6]), found[1])


class EdgeLog(asyncio.DatagramProtocol):
    """Takes HAProxy's log of a target while it is open; empty where the target does not say where it goes."""

    def __init__(self, target: Target) -> None:
        self._port = target.log_port
        self._transport: asyncio.DatagramTransport | None = None
        self.requests: list[Logged] = []

    def datagram_received(self, data: bytes, _: Any) -> None:
        if (found := logged_in(data.decode(errors="replace"))) is not None:
            self.requests.append(found)

    async def __aenter__(self) -> Self:
        if self._port is not None:
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", self._port))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.2)  # what is on its way
        if self._transport is not None:
            self._transport.close()


def own_limit() -> int:
    """Returns how many sockets this process may open beside what it has: its limit of open files, raised as far as
    the system lets it, less a reserve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(0, hard - sum(1 for _ in Path("/proc/self/fd").iterdir()) - 200)
