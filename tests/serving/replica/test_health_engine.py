"""A real engine whose clients hang up, and whose processes are stopped and killed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serving.random_adapters import engine_arguments

pytestmark = [pytest.mark.engine, pytest.mark.extra, pytest.mark.timeout(600)]

SEATS = 4
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def body(path: str, *, stream: bool, tokens: int = 400) -> dict[str, Any]:
    """A request that would run for many seconds."""
    turns = [{"role": "user", "content": "Count from one to one thousand."}]
    given: dict[str, dict[str, Any]] = {
        CHAT: {"messages": turns, "max_tokens": tokens, "ignore_eos": True},
        COMPLETIONS: {"prompt": ["One two three", "A b c"], "max_tokens": tokens, "ignore_eos": True},
        RESPONSES: {"input": "Count from one to one thousand.", "max_output_tokens": tokens, "ignore_eos": True},
        MESSAGES: {"messages": turns, "max_tokens": tokens, "stop_sequences": ["\u2603"]},
    }
    return {"model": "base", "stream": stream, **given[path]}


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", int]:
    """Starts a replica and returns its process and its port."""
    engine = engine_arguments(2, max_num_seqs=SEATS, scheduler_cls="serving.paging.scheduler.PagedScheduler")
    (folder / "order.json").write_text(json.dumps({"engine": engine}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": os.pathsep.join(["", *sys.path]).lstrip(os.pathsep),
    }
    with (folder / "log").open("w") as log:
        program = str(Path(__file__).with_name("health_engine.py"))
        command = [sys.executable, program, str(folder / "order.json"), str(port)]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log), port


@asynccontextmanager
async def replica(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    process, port = start(folder)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            deadline = time.monotonic() + 240
            while True:
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
                try:
                    await client.get("/state")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.3)
            yield client
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in family:
            one.kill()
        process.kill()
        process.wait()


async def state(client: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await client.get("/state")).json())


async def until(client: httpx.AsyncClient, condition, seconds: float) -> float:
    """Returns after how many seconds the replica's state was as it should be."""
    began = time.monotonic()
    while not condition(found := await state(client)):
        assert time.monotonic() - began < seconds, found
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def events(client: httpx.AsyncClient, path: str, began: asyncio.Event | None = None) -> tuple[int, str]:
    """Reads a stream to its end; returns its status and its text."""
    text = ""
    async with client.stream("POST", path, json=body(path, stream=True)) as answer:
        async for part in answer.aiter_text():
            text += part
            if began is not None:
                began.set()
    return answer.status_code, text


async def whole(client: httpx.AsyncClient, path: str) -> tuple[int, str]:
    answer = await client.post(path, json=body(path, stream=False))
    return answer.status_code, answer.text


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def gone_for_good(found: dict[str, Any]) -> None:
    """Waits until the processes of an engine have ended; one with much memory takes some time to."""
    deadline = time.monotonic() + 20
    while left := [pid for pid in (found["core"], *found["workers"]) if not is_gone(pid)]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


async def hang_up(client: httpx.AsyncClient) -> float:
    """Twenty requests of four APIs, half of them streams, most of them queued, whose clients then all hang up; returns
    after how long nothing of them was left in the engine."""
    paths = [CHAT, COMPLETIONS, RESPONSES, MESSAGES, CHAT]
    asked = [asyncio.create_task(events(client, path)) for path in paths * 2]
    asked += [asyncio.create_task(whole(client, path)) for path in paths * 2]
    await until(client, lambda found: found["running"] == SEATS and found["entered"] == 24 and found["waiting"], 60)
    assert not any(task.done() for task in asked)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    return await until(client, lambda found: (found["entered"], found["running"], found["waiting"]) == (0, 0, 0), 10)


def check_broken(path: str, status: int, text: str) -> None:
    """A stream that had begun: it ends with one error, in the form of its API."""
    assert status == 200
    if path == MESSAGES:
        assert text.count("event: error") == 1
        assert json.loads(text.rpartition("data: ")[2])["type"] == "error"
    elif path == RESPONSES:
        assert text.count("event: error") == 1
        assert json.loads(text.rpartition("data: ")[2])["code"] == "engine_gone"
    else:
        assert text.count('"error"') == 1
        assert text.endswith("data: [DONE]\n\n")


async def broken(client: httpx.AsyncClient, harm) -> float:
    """One stream of each API that has begun, and further requests that wait, while `harm` is done to the engine.
    Returns after how many seconds the last of them had its answer."""
    streams = {}
    for path in (CHAT, COMPLETIONS, RESPONSES):  # two prompts of the second: all seats are taken
        began = asyncio.Event()
        streams[path] = asyncio.create_task(events(client, path, began))
        await asyncio.wait_for(began.wait(), 60)
    queued = [asyncio.create_task(events(client, path)) for path in (CHAT, RESPONSES, MESSAGES)]
    queued += [asyncio.create_task(whole(client, path)) for path in (CHAT, RESPONSES, MESSAGES)]
    await until(client, lambda found: found["entered"] == 10, 30)
    harm(await state(client))
    harmed = time.monotonic()
    for path, stream in streams.items():
        check_broken(path, *await stream)
    for answer in queued:
        status, text = await answer
        assert status == 502, text
        assert "error" in json.loads(text)
    took = time.monotonic() - harmed
    assert (await client.get("/health")).status_code == 503
    assert (await whole(client, CHAT))[0] == 502
    return took


async def test_hang_ups_leave_the_engine_and_a_stopped_core_is_given_up(tmp_path: Path):
    async with replica(tmp_path) as client:
        gone = [await hang_up(client) for _ in range(2)]
        assert max(gone) < 1.0
        assert (await whole(client, CHAT))[0] == 200
        before = await state(client)
        took = await broken(client, lambda found: os.kill(found["core"], signal.SIGSTOP))
        assert took < 12
        assert "does not answer" in (await state(client))["failure"]
        await gone_for_good(before)
        print(f"hang-ups: {gone}; stopped core: all answered after {took:.1f} s")


async def test_a_killed_core_ends_all_at_once(tmp_path: Path):
    async with replica(tmp_path) as client:
        took = await broken(client, lambda found: os.kill(found["core"], signal.SIGKILL))
        assert took < 8
        print(f"killed core: all answered after {took:.1f} s")


async def test_a_core_does_not_outlive_its_front_end(tmp_path: Path):
    async with replica(tmp_path) as client:
        found = await state(client)
        front = psutil.Process(found["core"]).ppid()
        os.kill(front, signal.SIGKILL)
        await gone_for_good(found)
