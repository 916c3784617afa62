"""The edge without Ray: the real HAProxy on an edited configuration, with tiny real servers as replicas and routers."""

import contextlib
import http.client
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serving.config import Config
from serving.edge import haproxy_wrapper
from serving.edge.settings import EdgeSettings
from serving.launch.edge_settings import edge_settings
from serving.launch.instance import haproxy_binary
from tests.serving.edge.haproxy_config import ENGINE_REPLICA, RenderedPorts, render

GENERATES = "/v1/chat/completions"
SLOW, SLOW_S = "/slow", 0.5
HANGS_S = 2.5  # longer than the edge waits for a router
HEALTH = "/-/healthz"  # HAProxy's checks, which are not counted
LOOPBACK = "127.0.0.1"


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's name and the request's headers; a router chooses the first engine, or does what the
    body says; an engine does what its `behaviour` says."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet

    def answer(self) -> None:
        server: Any = self.server
        if server.dead:
            self.close_connection = True  # also the open connections of a process end with it
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        server.calls += self.path != HEALTH
        if self.path != HEALTH:
            server.headers = {name.lower(): value for name, value in self.headers.items()}
        behaviour = "" if self.path == HEALTH else server.behaviour
        if behaviour == "close":
            self.close_connection = True
            return
        if behaviour in {"whole", "cut", "reset", "idle"}:
            self.stream(behaviour)
            return
        if behaviour == "hold":
            server.released.wait(20)
        if self.path == SLOW:
            time.sleep(SLOW_S)
        status, retry_after = int(behaviour) if behaviour.isdigit() else 200, None
        content = {"server": server.name, "path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        content["bytes"] = len(body)
        if server.name.startswith("router"):
            status = {b"fail": 500, b"refuse": 429}.get(body, 200)
            retry_after = "7" if status == 429 else None
            if body == b"hang":
                time.sleep(HANGS_S)
            replica = {b"unknown": "id-of-a-new-one", b"nowhere": ""}.get(body, ENGINE_REPLICA)
            content = {"replica_id": replica, "request_headers": {"x-serve-router-learnware": "chosen"}}
        data = json.dumps(content).encode()
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        if not server.name.startswith("router"):
            self.send_header("Access-Control-Allow-Origin", "*")  # as vLLM does
            self.send_header("Access-Control-Allow-Credentials", "true")
            self.send_header("X-Request-ID", "the-replicas-own")  # as Ray Serve does
            self.send_header("Content-Security-Policy", "default-src 'self'")  # as the console does
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def stream(self, end: str) -> None:
        """Sends two events, and then the body's end, or none: closed, reset, or after a while of silence."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in (b'data: {"n": 1}\n\n', b'data: {"n": 2}\n\n'):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
            time.sleep(0.05)
        if end == "whole":
            self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            return
        self.close_connection = True
        if end == "idle":
            time.sleep(1)
        elif end == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = answer  # noqa: N815

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the edge hangs up on a router that hangs
            super().handle()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class Server(ThreadingHTTPServer):
    request_queue_size = 128


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: Any

    @property
    def error(self) -> Any:
        return self.content["error"]


class Door(NamedTuple):
    port: int
    servers: dict[str, Any]
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin"

    def admin_sockets(self) -> list[Path]:
        """As of an `Instance`: what `serving.launch.haproxy_admin` asks it for."""
        return [self.admin_socket]

    def ask(
        self,
        path: str = GENERATES,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        body: bytes = b"{}",
        source: str = LOOPBACK,
    ) -> Answer:
        """The path is sent as it is written."""
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=15, source_address=(source, 0))
        try:
            connection.request(method, path, body if method != "GET" else None, dict(headers or {}))
            response = connection.getresponse()
            text = response.read()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                json.loads(text) if text.startswith(b"{") else text,
            )
        finally:
            connection.close()

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, Any]]:
        answer = self.ask(
            path, {name.replace("_", "-"): value for name, value in headers.items()}, method=method, body=body
        )
        return answer.status, answer.content

    def calls(self, *names: str) -> int:
        """How often these servers were asked; all of them where none is named."""
        return sum(self.servers[name].calls for name in names or self.servers)


def settings(http_settings: Mapping[str, Any] | None = None, **sections: Any) -> EdgeSettings:
    """The edge's settings for a configuration on loopback."""
    return edge_settings(LOOPBACK, Config.model_validate({"http": dict(http_settings or {}), **sections}))


@contextlib.contextmanager
def opened(folder: Path, edge: EdgeSettings, *, two_engines: bool = False) -> Iterator[Door]:
    """Starts the servers, and HAProxy in front of them."""
    names = ["engine", "router", "second_router", "fallback", "other", *(["second_engine"] if two_engines else [])]
    servers: dict[str, Any] = {name: Server((LOOPBACK, 0), Handler) for name in names}
    for name, server in servers.items():
        server.name, server.calls, server.dead, server.behaviour = name, 0, False, ""
        server.name = "router" if "router" in name else name
        server.headers, server.released = {}, threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    own = {name: free_port() for name in ("http", "exporter", "stats")}
    ports = RenderedPorts(**own, **{name: server.server_port for name, server in servers.items()})
    with pytest.MonkeyPatch.context() as monkeypatch:
        config = render(folder, monkeypatch, ports=ports)
    (folder / "edge.json").write_text(edge.text())
    command = [*wrapper(folder), "-db", "-f", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    running = Door(ports.http, servers, folder, process)
    try:
        wait_until_it_listens(running)
        yield running
    finally:
        process.kill()
        process.communicate()
        for server in servers.values():
            server.released.set()
            end(server)


def wrapper(folder: Path) -> list[str]:
    """The command that Ray would start as HAProxy."""
    return [sys.executable, "-I", "-S", haproxy_wrapper.__file__, haproxy_binary(), str(folder / "edge.json")]


def end(server: Any) -> None:
    if not server.dead:
        server.dead = True
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_it_listens(door: Door) -> None:
    """Returns once HAProxy knows that the engine is there."""
    from serving.launch import haproxy_admin

    for _ in range(200):
        assert door.process.poll() is None, door.process.stdout and door.process.stdout.read().decode()
        if haproxy_admin.unrouted(door) is None:  # type: ignore[arg-type]
            return
        time.sleep(0.05)
    raise AssertionError("HAProxy did not come up")
