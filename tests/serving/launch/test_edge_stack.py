"""The edge under real Ray Serve: trivial replicas, no model. One start for all tests, which run in this order."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("ray.serve")

from serving.edge import key_watcher
from serving.launch.haproxy_admin import running_requests
from serving.launch.instance import Instance, claim, plan
from serving.launch.ports import REPLICA_PORTS, haproxies_of, listeners, ray_processes_of
from specs.errors import StartupError
from tests.serving.launch.edge_stack import KEY, KEYS_FILE, write_keys
from tests.support import free_stack_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
START_S = 120
BEARER = {"authorization": f"Bearer {KEY}"}
HEAD = f"HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 0\r\n\r\n"


class Stack(NamedTuple):
    instance: Instance
    driver: "subprocess.Popen[str]"
    lines: list[str]

    @property
    def port(self) -> int:
        return self.instance.ports.http

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, BEARER | given)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def echo(self, method: str = "POST", body: bytes = b"{}", **headers: str) -> dict[str, Any]:
        status, text = self.request(method, "/v1/completions", body, **headers)
        assert status == 200, text
        answer: dict[str, Any] = json.loads(text)
        return answer

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Its replicas' processes. While some methods run, Ray puts the actor's name before this part of the title."""
        found = []
        for process in ray_processes_of(self.instance.folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                if f"ServeReplica:learnware:{deployment}" in " ".join(process.cmdline()):
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with _started() as one:
        yield one


@contextlib.contextmanager
def _started(drain_seconds: float = 20) -> Iterator[Stack]:
    instance = plan("127.0.0.1", free_stack_port(range(18_200, 18_400)))
    driver = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("edge_stack.py")),
            str(instance.ports.http),
            str(drain_seconds),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=_read, args=(driver, lines), daemon=True)
    reader.start()
    deadline = time.monotonic() + START_S
    try:
        while not any(line.startswith("READY") for line in lines):
            assert driver.poll() is None, "".join(lines)
            assert time.monotonic() < deadline, "".join(lines)
            time.sleep(0.1)
        yield Stack(instance, driver, lines)
    finally:  # a test that fails leaves no stack behind
        if driver.poll() is None:
            driver.terminate()
        driver.wait(60)
        reader.join(10)
        assert driver.stdout is not None
        driver.stdout.close()


def _read(driver: "subprocess.Popen[str]", lines: list[str]) -> None:
    assert driver.stdout is not None
    for line in driver.stdout:
        lines.append(line)  # noqa: PERF402 - as they come, not at the end


def test_an_answer_has_the_requests_id_once_and_ray_takes_it_over(stack: Stack) -> None:
    """Ray's own middleware adds the id to a replica's answer as well."""
    context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    given = BEARER | {"x-request-id": "mine-1", "traceparent": context}
    for path, status in (("/v1/completions", 200), ("/metrics", 200), ("/v1/learnwares/x", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST" if path.startswith("/v1/c") else "GET", path, b"{}", given)
            response = connection.getresponse()
            text = response.read()
        assert (response.status, response.headers.get_all("x-request-id")) == (status, ["mine-1"])
        if path == "/v1/completions":
            seen = json.loads(text)["headers"]
            assert (seen["x-request-id"], seen["traceparent"]) == ("mine-1", context)


def test_a_post_carries_the_routers_choice_and_nothing_of_the_client(stack: Stack) -> None:
    headers = stack.echo(x_serve_router_learnware="mine", x_serve_router_other="mine")["headers"]
    assert headers["x-serve-router-learnware"] == "chosen"
    assert "x-serve-router-other" not in headers
    assert "x-serve-router-learnware" not in stack.echo("GET", x_serve_router_learnware="mine")["headers"]


def test_internal_paths_cannot_be_reached(stack: Stack) -> None:
    for path in ("/internal/route", "/%69nternal/route", "/internal"):
        status, text = stack.request("POST", path, b"{}")
        assert status == 404
        assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_a_failing_router_does_not_fail_the_request(stack: Stack) -> None:
    headers = stack.echo(body=b"fail")["headers"]
    assert headers["x-serve-router-failed"] == "router_non_200"
    assert "x-serve-router-learnware" not in headers


def test_a_refusing_router_makes_a_429_that_says_when_to_come_again(stack: Stack) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    connection.request("POST", "/v1/completions", b"refuse", BEARER)
    response = connection.getresponse()
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert json.loads(response.read())["error"]["type"] == "rate_limit_error"
    connection.close()


def test_a_key_is_added_while_the_stack_runs(stack: Stack) -> None:
    later = "a-key-that-comes-later"
    status, text = stack.request("POST", "/v1/completions", b"{}", authorization=f"Bearer {later}")
    assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")
    write_keys(stack.instance.folder / KEYS_FILE, KEY, later)
    deadline = time.monotonic() + 10
    while stack.request("POST", "/v1/completions", b"{}", authorization=f"Bearer {later}")[0] == 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert stack.request("GET", "/docs")[0] == 404
    assert stack.echo()["headers"]["x-serve-router-learnware"] == "chosen"
    assert len(watchers(stack)) == 1


def watchers(stack: Stack) -> list[psutil.Process]:
    """The processes that follow the key file."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if key_watcher.__file__ in line and str(stack.instance.edge_file) in line:
                found.append(process)
    return found


def test_a_post_that_generates_nothing_does_not_reach_the_router(stack: Stack) -> None:
    stack.echo()
    before = counted(stack, "router")
    status, text = stack.request("POST", "/v1/route", b"{}")
    assert status == 200
    assert "x-serve-router-learnware" not in json.loads(text)["headers"]
    assert counted(stack, "router") == before
    assert before["asked"] >= 1


def counted(stack: Stack, deployment: str) -> dict[str, float]:
    """Requests of a deployment's replicas together, by reason."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(stack.request("GET", "/metrics")[1]):
        for sample in family.samples:
            if sample.name == "learnware_requests_total" and sample.labels["deployment"] == deployment:
                reason = sample.labels["reason"]
                found[reason] = found.get(reason, 0) + sample.value
    return found


def test_nothing_of_the_stack_listens_off_loopback(stack: Stack) -> None:
    processes = [*haproxies_of(stack.instance.folder), *ray_processes_of(stack.instance.folder)]
    ours = listeners({stack.driver.pid, *(process.pid for process in processes)})
    ports = {port for _, port, _ in ours}
    assert set(stack.instance.ports.named().values()) <= ports
    assert ports & set(range(stack.instance.ports.replicas, stack.instance.ports.replicas + REPLICA_PORTS))
    assert [(address, port) for address, port, _ in ours if address not in {"127.0.0.1", "::ffff:127.0.0.1"}] == []


def test_one_scrape_shows_every_process(stack: Stack) -> None:
    stack.echo()
    for path in ("/metrics", "/metrics/"):
        status, text = stack.request("GET", path)
        assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    answered = [sample for sample in families["learnware_requests"].samples if sample.labels["deployment"] == "engine"]
    assert sum(sample.value for sample in answered) >= 1
    answering = [
        sample.labels["deployment"] for sample in families["learnware_scrape_success"].samples if sample.value == 1
    ]
    assert sorted(answering) == ["engine", "router", "router"]
    assert any(name.startswith("haproxy_backend") for name in families)
    _assert_no_duplicates(text)


def _assert_no_duplicates(text: str) -> None:
    series = [line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert len(series) == len(set(series))


def test_a_second_stack_on_the_port_is_refused_at_once_and_told_who_runs(stack: Stack) -> None:
    with pytest.raises(StartupError, match=f"already runs on port {stack.port}: process {stack.driver.pid}"):
        claim(stack.instance, print)


def test_killing_one_of_two_routers_loses_no_request(stack: Stack) -> None:
    routers = stack.replicas("router")
    assert len(routers) == 2
    routers[0].kill()
    slowest, choices = 0.0, []
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        started = time.monotonic()
        choices.append(stack.echo()["headers"].get("x-serve-router-learnware"))
        slowest = max(slowest, time.monotonic() - started)
    print(
        f"one of two routers killed: {len(choices)} requests, {choices.count(None)} unrouted, slowest {slowest:.3f} s"
    )
    assert len(choices) > 20
    assert None not in choices
    assert slowest < 2


def test_with_both_routers_dead_requests_reach_the_engine_without_a_choice(stack: Stack) -> None:
    unrouted, slowest = 0, 0.0
    deadline = time.monotonic() + 20
    while unrouted == 0:
        # Ray starts replacements, also of the one that an earlier test killed: they are killed as they come.
        for router in stack.replicas("router"):
            with contextlib.suppress(psutil.NoSuchProcess):
                router.kill()
        for _ in range(10):
            started = time.monotonic()
            headers = stack.echo(x_serve_router_learnware="mine")["headers"]
            slowest = max(slowest, time.monotonic() - started)
            assert headers.get("x-serve-router-learnware") in {None, "chosen"}
            unrouted += "x-serve-router-learnware" not in headers
        assert stack.request("GET", "/v1/models", authorization="Bearer none")[0] == 401
        assert time.monotonic() < deadline, "there was a router all the time"
    assert slowest < 3


def test_ctrl_c_lets_a_running_stream_finish_and_leaves_nothing_behind(stack: Stack) -> None:
    """The signal goes to the whole process group, as a terminal sends it."""
    chunks = 30
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as client:
        client.sendall(f"POST /stream?chunks={chunks} {HEAD}".encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.read(2) == b"0\n"
        assert running_requests(stack.instance) >= 1
        os.killpg(stack.driver.pid, signal.SIGINT)
        assert response.read().splitlines()[-1] == str(chunks - 1).encode()
    assert stack.driver.wait(40) == 0
    assert haproxies_of(stack.instance.folder) == []
    assert ray_processes_of(stack.instance.folder) == []
    assert watchers(stack) == []
    assert not {port for _, port, _ in listeners()} & set(stack.instance.ports.named().values())


def test_a_second_signal_after_the_drain_ran_out_leaves_nothing_behind_either() -> None:
    """It comes while Ray Serve still waits for the replica that streams."""
    with (
        _started(drain_seconds=1) as stack,
        socket.create_connection(("127.0.0.1", stack.port), timeout=30) as client,
    ):
        client.sendall(f"POST /stream?chunks=600 {HEAD}".encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.read(2) == b"0\n"
        stack.driver.terminate()
        deadline = time.monotonic() + 20
        while "Stopping Ray Serve and Ray\n" not in stack.lines:
            assert time.monotonic() < deadline, "".join(stack.lines)
            time.sleep(0.1)
        time.sleep(1)
        stack.driver.terminate()
        assert stack.driver.wait(40) == 0, "".join(stack.lines)
        assert "Stopped\n" in stack.lines, "".join(stack.lines)
        assert haproxies_of(stack.instance.folder) == []
        assert ray_processes_of(stack.instance.folder) == []
