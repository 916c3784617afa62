"""The watchdog, before a gate whose peers are real sockets: a process that is stopped, one that ends, steps that do not
end."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from serving.paging.gate import AdapterGate
from serving.paging.inflight import DeadEngine
from serving.paging.sockets import SCHEDULER, socket_path
from serving.replica import watchdog
from serving.replica.watchdog import MISSES, Watchdog, kill_engine

pytestmark = pytest.mark.vllm

PEERS = """
import sys, threading, time
from serving.paging.sockets import SchedulerSocket, WorkerSocket, socket_path
from serving.paging.tier import HostTier
changed, tier = threading.Event(), HostTier(10, id, id, id)
report = lambda: {"slots": [], "host": {}, "names": {}}
WorkerSocket(socket_path(sys.argv[1], "0"), changed, report, tier, id)
SchedulerSocket(socket_path(sys.argv[1], "scheduler"), changed, lambda: {"running": 0}, print)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def peers():
    """A process that has the sockets of a worker and of a scheduler, and the name of its instance."""
    instance = f"test-{time.monotonic_ns()}"
    process = subprocess.Popen([sys.executable, "-c", PEERS, instance], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield instance, process
    process.kill()
    process.wait()
    process.stdout.close()
    for part in ("0", SCHEDULER):
        socket_path(instance, part).unlink(missing_ok=True)


class Ended:
    """An engine client's errors, and what was killed."""

    def __init__(self) -> None:
        self.errored = False
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1


def watch(gate: AdapterGate, engine: Ended, clock=time.monotonic) -> Watchdog:
    return Watchdog(gate, errored=lambda: engine.errored, kill=engine.kill, stuck_step_s=120, clock=clock)


async def until(condition, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_peers_that_answer_are_well_and_one_that_is_stopped_is_not(peers, monkeypatch):
    monkeypatch.setattr(watchdog, "PING_S", 0.1)
    instance, process = peers
    gate, engine = AdapterGate(instance, 1), Ended()
    await gate.connect(paged=True)
    dog = watch(gate, engine)
    dog.start()
    try:
        await asyncio.sleep(1)
        assert dog.failure is None
        dog.check()
        process.send_signal(signal.SIGSTOP)
        await until(lambda: engine.killed)
        assert dog.failure == "its worker 0 does not answer"
        with pytest.raises(DeadEngine, match="worker 0"):
            dog.check()
    finally:
        dog.stop()
        await gate.close()


async def test_a_peer_that_ends_is_noticed_at_once(peers, monkeypatch):
    monkeypatch.setattr(watchdog, "PING_S", 0.05)
    instance, process = peers
    gate, engine = AdapterGate(instance, 1), Ended()
    await gate.connect(paged=True)
    dog = watch(gate, engine)
    dog.start()
    process.kill()
    await until(lambda: engine.killed)
    assert "connection to its worker 0 ended" in str(dog.failure)
    await gate.close()


async def test_a_front_end_that_was_busy_blames_nobody(peers):
    instance, _ = peers
    gate, engine = AdapterGate(instance, 1), Ended()
    await gate.connect(paged=True)
    now = 0.0
    dog = watch(gate, engine, lambda: now)
    for _ in range(3 * MISSES):
        now += 60  # all of which the loop was blocked
        assert dog.look() is None
        await until(lambda: all(peer.answered == dog._pings for peer in gate.peers))
    await gate.close()


def stuck(gate: AdapterGate, steps: list[int | None], entered: int, seconds: float) -> str | None:
    """What is found when the scheduler reports these steps, `seconds` apart."""
    now = 0.0
    dog = watch(gate, Ended(), lambda: now)
    found = None
    gate.entered = entered
    for count in steps:
        gate.residency.note_scheduler({"running": entered} | ({} if count is None else {"steps": count}))
        now += seconds
        found = dog.look()
    return found


@pytest.mark.parametrize(
    ("steps", "entered", "seconds", "hangs"),
    [
        ([1, 2, 3], 1, 100, False),
        ([1, 1, 1], 1, 100, True),
        ([1, 1], 1, 100, False),
        ([1, 1, 1, 2], 1, 50, False),
        ([1, 1, 1], 0, 100, False),
        ([None, None, None], 1, 100, False),
    ],
    ids=["steps end", "none ends", "not yet", "one ends", "nothing to do", "not counted"],
)
def test_requests_without_a_finished_step_are_a_hang(steps, entered, seconds, hangs):
    found = stuck(AdapterGate("test", 0), steps, entered, seconds)
    assert found == ("it finished no step for 120 s" if hangs else None)


async def test_an_engine_that_vllm_gave_up_is_given_up():
    gate, engine = AdapterGate("test", 0), Ended()
    dog = watch(gate, engine)
    assert dog.failure is None
    engine.errored = True
    assert dog.failure == "it died"
    dog.start()
    await until(lambda: engine.killed)


def test_killing_takes_what_the_core_has_started_along_stopped_or_not():
    start = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = f"import subprocess, sys; child = {start}; print(child.pid, flush=True); child.wait()"
    core = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert core.stdout is not None
    worker = psutil.Process(int(core.stdout.readline()))
    worker.suspend()
    os.kill(core.pid, signal.SIGSTOP)
    manager = SimpleNamespace(processes=[SimpleNamespace(pid=core.pid, exitcode=None), SimpleNamespace(exitcode=0)])
    kill_engine(SimpleNamespace(engine_core=SimpleNamespace(resources=SimpleNamespace(engine_manager=manager))))
    assert core.wait(5) == -signal.SIGKILL
    core.stdout.close()
    deadline = time.monotonic() + 5
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
