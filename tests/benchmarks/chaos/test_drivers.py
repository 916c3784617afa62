"""Each scenario's driver finds on a small server what the server does well, and what it does badly."""

import asyncio
import contextlib
import functools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos import cancelled, disk, door, kills, malformed, overload, soak, tenants
from benchmarks.chaos.figures import Findings
from benchmarks.chaos.main import summarise
from benchmarks.chaos.target import Role, Target
from tests.benchmarks.chaos.stub_stack import StubStack, is_chat, serving

pytestmark = pytest.mark.extra


def missed(name: str, findings: Findings) -> list[str]:
    return summarise({name: findings})[4]


async def test_malformed_bodies_find_a_server_that_breaks_on_depth():
    good, bad = StubStack(), StubStack()
    bad.answer_body = lambda data: 500 if b"[" * 100 in data else 200 if is_chat(data) else 400
    for stub, figures in ((good, []), (bad, ["malformed_5xx"])):
        async with serving(stub) as target:
            findings = malformed.evaluate(*await malformed.drive(target, 400))
        assert missed("malformed", findings) == figures


@pytest.mark.parametrize("aborts", [True, False])
async def test_cancelled_requests_find_a_server_that_goes_on(monkeypatch: pytest.MonkeyPatch, aborts: bool):
    monkeypatch.setattr(cancelled, "GRACE_S", 0.2)
    monkeypatch.setattr(cancelled, "WATCHED_S", 0.4)
    monkeypatch.setattr(cancelled, "IDLE_WAIT_S", 0.1)
    monkeypatch.setattr(cancelled, "TOKENS", 200)
    async with serving(StubStack(seats=40, token_s=0.03, aborts=aborts)) as target:
        stages, watched = await cancelled.drive(target, 24)
    assert {"mid-stream", "not streamed", "before a token"} <= set(stages)
    figures = [] if aborts else ["cancelled_left", "cancelled_tokens_for_nobody"]
    assert missed("cancelled", cancelled.evaluate(stages, watched)) == figures


async def test_an_attack_on_the_door_opens_what_it_says_and_closes_it_again():
    plan = door.Plan(half_open=60, slow_readers=8, rounds=1, requests=8)
    stub = StubStack()
    before = len(psutil.Process().net_connections("tcp"))
    async with serving(stub) as target:
        rounds, lag = await door.drive(target, plan)
    attack = next(round_.attack for round_ in rounds if round_.attack is not None)
    assert attack == door.Attack(68, 0, 68)
    assert [len(round_.outcomes) for round_ in rounds] == [8, 8]
    assert door.evaluate(rounds, lag).figures["door_others_failed"] == 0
    assert len(psutil.Process().net_connections("tcp")) <= before + 70


async def test_attackers_who_are_thrown_out_come_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door, "AGAIN_S", 0.05)

    async def throw_out(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(throw_out, "127.0.0.1", 0)
    async with server:
        attackers = door.Attackers(Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 10, 0)
        await attackers.start()
        attack = await attackers.stop()
    assert attack.opened > 20
    assert attack.held <= 10


async def test_attackers_come_from_several_addresses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door, "PER_SOURCE", 20)
    async with serving(StubStack()) as target:
        attackers = door.Attackers(target, 50, 10)
        await attackers.start()
        ours = psutil.Process().net_connections("tcp")
        port = int(target.url.rpartition(":")[2])
        sources = {one.laddr.ip for one in ours if one.raddr and one.raddr.port == port}
        attack = await attackers.stop()
    assert attack.opened == 60
    assert sources == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


@pytest.mark.parametrize("most_waiting", [4, None])
async def test_an_overload_finds_a_server_that_refuses_nobody(
    monkeypatch: pytest.MonkeyPatch, most_waiting: int | None
):
    monkeypatch.setattr(overload, "SHORT_CONCURRENCIES", (4, 8))
    monkeypatch.setattr(overload, "SHORT_CAPACITY_S", 1.0)
    monkeypatch.setattr(overload, "SHORT_OVERLOAD_S", 2.0)
    monkeypatch.setattr(overload, "DRAIN_S", 0.5)
    async with serving(StubStack(token_s=0.004, most_waiting=most_waiting)) as target:
        closed, opened = await overload.drive(target, short=True)
    findings = overload.evaluate(closed, opened)
    assert findings.figures["overload_offered"] > 3 * findings.figures["overload_capacity"]
    if most_waiting is None:
        assert {"overload_ttft_p99_ratio", "overload_failed"} <= set(missed("overload", findings))
        assert findings.figures["overload_refused_share"] == 0
    else:
        assert findings.figures["overload_refused_share"] > 0.5
        assert findings.figures["overload_refused_without_time"] == findings.figures["overload_failed"] == 0
        assert findings.figures["overload_goodput_share"] > 0.7


@pytest.mark.parametrize("is_fair", [True, False])
async def test_two_tenants_find_a_server_that_serves_them_in_one_line(monkeypatch: pytest.MonkeyPatch, is_fair: bool):
    monkeypatch.setattr(tenants, "BUILD_UP_S", 0.3)
    monkeypatch.setattr(tenants, "SHORT_ROUND_REQUESTS", 4)
    async with serving(StubStack(token_s=0.002, is_fair=is_fair)) as target:
        rounds, lag = await tenants.drive(target, short=True)
    assert [round_.arm for round_ in rounds] == list(tenants.ARMS)
    findings = tenants.evaluate(rounds, lag, has_keys=True)
    assert (findings.figures["tenants_ttft_p99_ratio"] > 6) is not is_fair
    assert findings.figures["tenants_other_failed"] == 0


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A launcher with one child whose title is that of an engine; SIGTERM ends it."""
    child = f"import time; time.sleep(60)  # {Role.CORE}"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    launcher = subprocess.Popen([sys.executable, "-c", program])
    target = Target("http://127.0.0.1:1", root=launcher.pid)
    for _ in range(100):
        if len(target.processes()) == 2:
            break
        psutil.Process().cpu_percent(0.05)
    family = target.processes()
    yield launcher
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGCONT)
            one.kill()
    launcher.wait()


async def test_a_soak_watches_processes_changes_the_market_and_ends_the_stack(
    monkeypatch: pytest.MonkeyPatch, process: subprocess.Popen[bytes]
):
    monkeypatch.setattr(soak, "SAMPLE_S", 0.2)
    monkeypatch.setattr(soak, "CHANGE_S", 0.3)
    stub = StubStack()
    async with serving(stub) as target:
        found = await soak.drive(target._replace(root=process.pid), 2.0)
    findings = soak.evaluate(found)
    assert process.wait(5) == -signal.SIGTERM
    assert findings.figures["soak_changes"] >= 2
    assert findings.figures["soak_changes_failed"] == 0
    assert findings.figures["soak_sigterm_dropped"] == 0
    assert findings.figures["soak_metrics_mb"] > 0
    assert {grown.role[:10] for grown in found.memory.values()} >= {Role.CORE}
    assert "chaos-0" in stub.learnwares or len(found.changes) % 2 == 0


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_a_stopped_engine_is_let_go_on_and_told_whether_it_was_noticed(
    monkeypatch: pytest.MonkeyPatch, process: subprocess.Popen[bytes], is_noticed: bool
):
    monkeypatch.setattr(kills, "KINDS", ("engine stopped",))
    monkeypatch.setattr(kills, "BEFORE_S", 0.3)
    monkeypatch.setattr(kills, "AFTER_S", 0.0)
    monkeypatch.setattr(kills, "LOOK_S", 0.05)
    monkeypatch.setattr(kills, "SHORT_REPLACED_WAIT_S", 0.6)
    monkeypatch.setattr(kills, "wait_until_whole", lambda *_: 0.0)
    looks = iter([{"a", "b"}, {"a", "b"}, None, {"a"}, {"a", "c"}] if is_noticed else [])
    monkeypatch.setattr(Target, "replicas_up", lambda _: next(looks, {"a", "b"}))
    async with serving(StubStack(seats=16, token_s=0.0005)) as target:
        found, outcomes, lag = await kills.drive(target._replace(root=process.pid, replicas=2), 1, short=True)
    (kill,) = found
    assert (kill.noticed is not None, kill.replaced is not None) == (is_noticed, is_noticed)
    engine = psutil.Process(process.pid).children()[0]
    assert engine.status() != psutil.STATUS_STOPPED
    findings = kills.evaluate(found, outcomes, lag)
    assert findings.figures["kills_failed_before_token"] == 0
    assert findings.figures["kills_requests"] > 80
    assert ("kills_hang_unnoticed" in missed("kills", findings)) is not is_noticed


async def test_kills_need_two_replicas_and_a_process():
    with pytest.raises(ValueError, match="two replicas"):
        await kills.drive(Target("http://127.0.0.1:1", root=1), 1, short=True)


def test_a_limit_of_written_files_stands_in_for_a_full_disk_and_ends_with_it(tmp_path: Path):
    program = f"import sys, time; print(flush=True); time.sleep(60)  # {Role.MARKET}"
    market = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        target = Target("http://127.0.0.1:1", root=market.pid)
        before = psutil.Process(market.pid).rlimit(psutil.RLIMIT_FSIZE)
        bad = disk.Disk(tmp_path / "market", is_mounted=False)
        with bad.full(target):
            assert psutil.Process(market.pid).rlimit(psutil.RLIMIT_FSIZE)[0] == 4096
        with bad.read_only(target):
            assert psutil.Process(market.pid).rlimit(psutil.RLIMIT_FSIZE)[0] == 0
        assert psutil.Process(market.pid).rlimit(psutil.RLIMIT_FSIZE) == before
        assert "RLIMIT_FSIZE" in bad.way
    finally:
        market.kill()
        market.wait()
        assert market.stdout is not None
        market.stdout.close()


def test_a_file_system_of_its_own_is_filled_and_emptied_again(tmp_path: Path):
    with disk.disk_in(tmp_path / "disk") as bad:
        if "tmpfs" not in bad.way:
            pytest.skip("this user may not mount a file system")
        bad.folder.mkdir()
        target = Target("http://127.0.0.1:1")
        with bad.full(target), pytest.raises(OSError, match="No space left"):
            (bad.folder / "file").write_bytes(bytes(1 << 20))
        with bad.read_only(target), pytest.raises(OSError, match="Read-only"):
            (bad.folder / "file").write_bytes(b"a")
        (bad.folder / "file").write_bytes(bytes(1 << 20))
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(("is_honest", "served"), [(True, set()), (False, set()), (True, {disk.REFUSED})])
async def test_a_look_at_a_bad_disk_tells_what_is_lost_served_and_said(is_honest: bool, served: set[str]):
    stub = StubStack()
    stub.market_status, stub.is_honest = 507, is_honest
    stub.learnwares = {"kept", disk.REMOVED} | served
    async with serving(stub) as target:
        look = functools.partial(disk._look, target, "full", {"kept", "gone"}, submits=True, unsettled={disk.REMOVED})
        step = await asyncio.to_thread(look)
    assert (step.status, step.is_honest, step.failed_reads) == (507, is_honest, 0)
    assert step.lost == ["gone"]
    assert set(step.gained) == served


def test_a_replica_that_does_not_come_back_is_found():
    assert missed("disk", disk.evaluate([], True, "tmpfs", replaced=False)) == ["disk_not_restarted"]


def test_every_catalogue_of_a_market_is_spoilt(tmp_path: Path):
    path = tmp_path / "published" / "catalogue.json"
    path.parent.mkdir()
    path.write_text("{}")
    disk.spoil_catalogue(tmp_path)
    assert path.read_bytes() == disk.GARBAGE
