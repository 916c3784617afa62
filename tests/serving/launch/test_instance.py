"""An instance's ports, run folder, claim and left-overs; and that its environment names what Ray reads."""

import os
import re
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.config import Config
from serving.launch import haproxy_admin as admin
from serving.launch.drain import StopSignals, drain, stop_stack
from serving.launch.edge_settings import edge_settings
from serving.launch.environment import instance_environment
from serving.launch.instance import Instance, claim, local_url, plan, prepare
from serving.launch.ports import REPLICA_PORTS, check_ports_free, derive_ports, haproxies_of, listeners
from specs.errors import StartupError
from tests.support import free_stack_port

PORT = 18_090


@pytest.fixture
def instance() -> Iterator[Instance]:
    """In a short temporary folder: pytest's own paths are too long for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="", dir="/tmp") as folder:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(tempfile, "tempdir", folder)
            planned = plan("127.0.0.1", PORT)
        yield planned


def silent(_: str) -> None:
    """Says nothing."""


@pytest.mark.parametrize(
    ("http", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 9000}, "http://127.0.0.1:9000"),
        ({"host": "::"}, "http://127.0.0.1:8000"),
        ({"host": "::1"}, "http://[::1]:8000"),
        ({"host": "10.0.0.5", "tls_certificate": "door.pem"}, "https://10.0.0.5:8000"),
    ],
)
def test_a_stack_is_reached_where_it_listens(http: dict[str, object], url: str) -> None:
    assert local_url(Config.model_validate({"http": http})) == url


def test_neighbouring_http_ports_share_no_port() -> None:
    ports = [derive_ports(http) for http in range(8000, 8100)]
    blocks = [range(each.replicas, each.replicas + REPLICA_PORTS) for each in ports]
    used = [port for each, block in zip(ports, blocks, strict=True) for port in (*each[:4], *block)]
    assert len(used) == len(set(used))


@pytest.mark.parametrize("port", [0, -1, 65_000])
def test_a_port_without_room_for_the_others_is_refused(port: int) -> None:
    with pytest.raises(StartupError, match="choose one from 1 to 64434"):
        derive_ports(port)


def test_a_busy_port_is_named_with_its_holder() -> None:
    ports = derive_ports(PORT)
    with (
        socket.create_server(("127.0.0.1", ports.stats)),
        pytest.raises(
            StartupError, match=rf"port {ports.stats} is held by process {os.getpid()} \(.*needed for HAProxy stat"
        ),
    ):
        check_ports_free(ports, "127.0.0.1")
    check_ports_free(ports, "127.0.0.1")


def test_tests_start_a_stack_where_all_its_ports_are_free() -> None:
    with socket.create_server(("127.0.0.1", derive_ports(PORT).fallback)):
        assert free_stack_port([PORT, PORT + 1]) == PORT + 1
        with pytest.raises(OSError, match="no HTTP port"):
            free_stack_port([PORT])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(StartupError, match=f"port {PORT}, needed for HTTP: cannot listen on 192.0.2.1"):
        check_ports_free(derive_ports(PORT), "192.0.2.1")


def test_the_run_folder_and_launcher_are_the_owners_alone(instance: Instance) -> None:
    prepare(instance, edge_settings(instance.host, Config()))
    assert stat.S_IMODE(instance.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(instance.launcher.stat().st_mode) == 0o700
    assert "HA-Proxy version" in (version := _run(instance.launcher, "-v")) or "HAProxy version" in version


def _run(launcher: Path, *arguments: str) -> str:
    """The launcher insists on a configuration; `-f` names an already edited one."""
    config = launcher.parent / "x.cfg"
    config.write_text("# edited by learnware-serving: serving/edge/haproxy_wrapper.py\n")
    return subprocess.run(
        [launcher, *arguments, "-f", config], capture_output=True, text=True, check=True, timeout=20
    ).stdout


def test_a_run_folder_that_is_a_link_is_refused(instance: Instance, tmp_path: Path) -> None:
    instance.folder.parent.mkdir()
    instance.folder.symlink_to(tmp_path)
    with pytest.raises(StartupError, match="belongs to somebody else"):
        prepare(instance, edge_settings(instance.host, Config()))


def test_a_temporary_folder_with_a_path_too_long_for_sockets_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "x" * 60)
    assert plan("127.0.0.1", PORT).folder == Path(f"/tmp/learnware-{os.getuid()}/{PORT}")


def test_a_claimed_instance_is_not_claimed_again_until_released(instance: Instance) -> None:
    with (
        claim(instance, silent),
        pytest.raises(StartupError, match=f"already runs on port {PORT}: process {os.getpid()}"),
    ):
        claim(instance, silent)
    claim(instance, silent).release()


def test_a_failed_claim_holds_nothing(instance: Instance) -> None:
    with socket.create_server(("127.0.0.1", PORT)), pytest.raises(StartupError, match=f"port {PORT} is held by"):
        claim(instance, silent)
    claim(instance, silent).release()


def test_a_haproxy_left_behind_is_ended_by_the_next_start(instance: Instance) -> None:
    left = _haproxy(instance)
    said: list[str] = []
    try:
        assert [process.pid for process in haproxies_of(instance.folder)] == [left.pid]
        claim(instance, said.append).release()
        assert said == [f"Ending what an earlier run left behind: HAProxy, process {left.pid}"]
    finally:
        left.kill()
        left.wait()
    assert not list(instance.folder.glob("node*")), "an earlier run's HAProxy folder is removed"


def _haproxy(instance: Instance) -> "subprocess.Popen[bytes]":
    """A real HAProxy in the run folder, as a killed stack leaves one: it holds the HTTP port."""
    prepare(instance, edge_settings(instance.host, Config()))
    folder = instance.folder / "node"
    folder.mkdir()
    config = folder / instance.haproxy_config.name
    config.write_text(
        "# edited by learnware-serving: serving/edge/haproxy_wrapper.py\n"
        f"global\n    stats socket {folder / instance.admin_socket.name} mode 600 level admin\n"
        "defaults\n    mode http\n    timeout client 5s\n    timeout connect 5s\n    timeout server 5s\n"
        f"frontend http_frontend\n    bind 127.0.0.1:{PORT}\n    default_backend slow\n"
        "backend slow\n    http-request set-var(txn.x) int(1)\n    server none 127.0.0.1:9\n"
    )
    process = subprocess.Popen(
        [instance.launcher, "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 10
    while PORT not in {port for _, port, _ in listeners()}:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_draining_refuses_new_connections_at_once_when_nothing_runs(instance: Instance) -> None:
    process = _haproxy(instance)
    said: list[str] = []
    try:
        assert drain(instance, say=said.append, drain_seconds=5, hurry=threading.Event())
        assert said == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", PORT), timeout=2)
    finally:
        process.kill()
        process.wait()


def test_draining_says_that_new_connections_still_come(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_FRONTEND", "else")
    process = _haproxy(instance)
    said: list[str] = []
    try:
        assert drain(instance, say=said.append, drain_seconds=5, hurry=threading.Event())
        assert said == ["HAProxy still takes new requests: asked to disable else, it said 'No such frontend.'"]
    finally:
        process.kill()
        process.wait()


def test_stopping_a_stack_that_never_started_is_harmless(instance: Instance) -> None:
    pytest.importorskip("ray.serve")
    prepare(instance, edge_settings(instance.host, Config()))
    said: list[str] = []
    assert stop_stack(instance, say=said.append, drain_seconds=5)
    assert said[-1] == "Stopped"


def test_the_first_signal_stops_and_the_second_hurries() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signals = StopSignals()
    try:
        signals.install()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop.wait(2)
        assert not signals.hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.hurry.wait(2)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_ray_reads_every_variable_that_is_set_for_it(instance: Instance) -> None:
    """A name that Ray no longer reads would do nothing, quietly: each must stand in the installed version's source."""
    ray = Path(pytest.importorskip("ray").__file__).parent
    folders = (
        "serve/_private",
        "llm/_internal/serve",
        "_private",
        "_private/authentication",
        "_common",
        "_common/usage",
    )
    text = "\n".join(path.read_text() for folder in folders for path in (ray / folder).glob("*.py"))
    names = [name for name in instance_environment(instance, router_replicas=2) if name.startswith("RAY_")]
    assert len(names) > 15
    assert [name for name in names if f'"{name}"' not in text] == []


def test_two_instances_share_no_path_and_no_port() -> None:
    first, second = (instance_environment(plan("127.0.0.1", port), router_replicas=2) for port in (8000, 8001))
    own = re.compile("_(PATH|LOC|BASE|FILE|PORT|TMPDIR)$")
    shared = [name for name, value in first.items() if own.search(name) and second[name] == value]
    assert shared == []


def test_the_administration_stays_on_loopback_behind_a_public_frontend() -> None:
    assert edge_settings("0.0.0.0", Config())[:2] == ("*", "127.0.0.1")
    assert edge_settings("127.0.0.1", Config()).frontend_host == "127.0.0.1"
