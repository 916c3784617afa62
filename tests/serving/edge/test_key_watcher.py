"""Keys that come and go while the real HAProxy runs."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serving.access.keyring import digest_of
from serving.edge import key_watcher
from serving.edge.key_maps import State, current_state, maps, read_key_file
from tests.serving.edge.door import Door, opened, settings, wrapper
from tests.serving.edge.test_tenants import bearer, key_file

WITHIN_S = 2.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return key_file(tmp_path / "keys.json", {"one": {}})


@pytest.fixture
def door(tmp_path: Path, file: Path) -> Iterator[Door]:
    with opened(tmp_path, settings(keys={"file": str(file)})) as one:
        yield one


def becomes(what: Callable[[], bool], within_s: float = WITHIN_S) -> bool:
    deadline = time.monotonic() + within_s
    while not (true := what()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return true


def watchers(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if key_watcher.__file__ in line and str(folder) in line:
                found.append(process)
    return found


def files_of(process: psutil.Process) -> set[str]:
    """Returns the files that a process holds open, its standard streams among them."""
    found = set()
    for each in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            found.add(str(each.readlink()))
    return {each for each in found if not each.startswith("socket:")}


@pytest.mark.slow
def test_a_key_is_accepted_and_refused_within_two_seconds_without_a_restart(door: Door, file: Path) -> None:
    assert (door.ask(headers=bearer("one")).status, door.ask(headers=bearer("two")).status) == (200, 401)
    key_file(file, {"one": {}, "two": {"requests_per_minute": 1}})
    assert becomes(lambda: door.ask(headers=bearer("two")).status == 200)
    assert door.ask(headers=bearer("two")).status == 429  # with its limits
    key_file(file, {"two": {}})
    assert becomes(lambda: door.ask(headers=bearer("one")).status == 401)
    assert door.ask(headers=bearer("two")).status == 200
    key_file(file, {})  # the last key's removal does not open the door
    assert becomes(lambda: door.ask(headers=bearer("two")).status == 401)
    assert door.ask().status == 401


@pytest.mark.slow
def test_a_running_request_outlives_its_key(door: Door, file: Path) -> None:
    engine = door.servers["engine"]
    engine.behaviour = "hold"
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(door.ask(headers=bearer("one")).status))
    thread.start()
    assert becomes(lambda: engine.calls == 1)
    engine.behaviour = ""
    key_file(file, {"two": {}})
    assert becomes(lambda: door.ask(headers=bearer("one")).status == 401)
    engine.released.set()
    thread.join(5)
    assert statuses == [200]


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["", "{", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"name": "x"}]}', None]
)
def test_a_broken_key_file_keeps_the_last_good_state(door: Door, file: Path, content: str | None) -> None:
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    assert becomes(lambda: "the keys stay as they were" in _log(door))
    assert (door.ask(headers=bearer("one")).status, door.ask().status) == (200, 401)
    key_file(file, {"two": {}})
    assert becomes(lambda: door.ask(headers=bearer("two")).status == 200)
    assert _log(door).count("stay as they were") == 1


def _log(door: Door) -> str:
    path = door.folder / key_watcher.LOG
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_a_key_file_that_is_not_there_yet_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    with opened(tmp_path, settings(keys={"file": str(file)})) as door:
        assert door.ask().status == 401
        key_file(file, {"one": {}})
        assert becomes(lambda: door.ask(headers=bearer("one")).status == 200)
        assert door.ask().status == 401


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_watcher_ends_with_its_haproxy_and_holds_nothing(door: Door, number: int) -> None:
    assert becomes(lambda: len(watchers(door.folder)) == 1)
    watcher = watchers(door.folder)[0]
    assert watcher.ppid() == door.process.pid
    assert not watcher.net_connections("inet")
    assert becomes(lambda: files_of(watcher) == {os.devnull}), files_of(watcher)  # once it has read its modules
    os.kill(door.process.pid, number)
    door.process.wait(10)
    assert becomes(lambda: not watchers(door.folder))


@pytest.mark.slow
def test_a_reload_keeps_the_keys_and_leaves_one_watcher(door: Door, file: Path) -> None:
    file.write_text("broken")
    # as Ray does: a new file, and a new process that takes the sockets over
    config = door.folder / "haproxy.cfg"
    command = [
        *wrapper(door.folder),
        "-db",
        "-f",
        str(config),
        "-sf",
        str(door.process.pid),
        "-x",
        str(door.admin_socket),
    ]
    second = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        door.process.wait(15)
        assert (door.ask(headers=bearer("one")).status, door.ask().status) == (200, 401)
        key_file(file, {"two": {}})
        assert becomes(lambda: door.ask(headers=bearer("two")).status == 200)
        assert becomes(lambda: len(watchers(door.folder)) == 1)
    finally:
        second.kill()
        second.wait()


@pytest.mark.slow
def test_many_keys_are_exchanged_in_one_step(door: Door, file: Path) -> None:
    key_file(file, {f"k{number}": {"requests_per_minute": 5} for number in range(2_000)})
    assert becomes(lambda: door.ask(headers=bearer("k1999")).status == 200)
    assert door.ask(headers=bearer("one")).status == 401


def test_several_keys_of_one_name_are_one_tenant_with_the_last_ones_limits(tmp_path: Path) -> None:
    entries = [
        {"name": "a", "sha256": "1" * 64, "requests_per_minute": 5},
        {"name": "a", "sha256": "2" * 64, "requests_per_minute": None},
        {"name": "b", "sha256": "3" * 64},
    ]
    edge = settings(limits={"requests_per_minute": 7, "concurrent_requests": 3})
    content = maps(edge, State(entries, False))
    assert content["keys"] == {"1" * 64: "a", "2" * 64: "a", "3" * 64: "b"}
    assert content["rpm"] == {"anonymous": "7", "b": "7"}
    assert content["concurrent"] == {"anonymous": "3", "a": "3", "b": "3"}
    assert content["state"] == {"open": "no"}


def test_the_admin_key_alone_does_not_close_the_door_and_gives_its_tenant() -> None:
    edge = settings(market={"admin_key": "secret"}, limits={"requests_per_minute": 7})
    content = maps(edge, State([], False))
    assert content["keys"] == {digest_of("secret"): "admin"}
    assert content["state"] == {"open": "yes"}
    assert "admin" not in content["rpm"]
    assert maps(edge._replace(open_without_keys=False), State([], False))["state"] == {"open": "no"}


def test_before_there_was_a_good_key_file_a_broken_one_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("[]")
    edge = settings(keys={"file": str(tmp_path / "keys.json")})
    state = current_state(edge, str(tmp_path / "x"))
    assert (state.entries, state.closed) == ([], True)
    assert "must hold" in (state.problem or "")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "a b", "sha256": "1" * 64}, "its name must have"),
        ({"name": "admin", "sha256": "1" * 64}, "not be anonymous or admin"),
        ({"name": "a", "sha256": "x"}, "64 lower-case hexadecimal"),
        ({"name": "a", "sha256": "1" * 64, "requests_per_minute": 0}, "requests_per_minute must be a whole number"),
        ({"name": "a", "sha256": "1" * 64, "concurrent_requests": True}, "concurrent_requests must be"),
        ("a", "must be an object"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(tmp_path: Path, entry: object, said: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"format": 1, "keys": [{"name": "good", "sha256": "0" * 64}, entry]}))
    with pytest.raises(ValueError, match=f"key 2: .*{said}"):
        read_key_file(str(path))
