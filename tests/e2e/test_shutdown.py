"""SIGTERM lets a running stream finish and leaves nothing behind. It ends the shared stack, hence its mark `last`."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.support import QUESTIONS, USER, Stack, chat

pytestmark = [pytest.mark.e2e, pytest.mark.last]


def test_nothing_that_needs_the_stack_comes_later(request: pytest.FixtureRequest):
    items = request.session.items
    later = items[items.index(request.node) :]
    assert {item.path.name for item in later if "stack" in item.fixturenames} <= {Path(__file__).name}


def test_a_second_start_on_the_port_says_at_once_who_holds_it(stack: Stack):
    started = time.monotonic()
    command = [sys.executable, "-m", "serving.cli", "serve", "--port", str(stack.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert str(stack.process.pid) in second.stderr
    assert time.monotonic() - started < 20


def test_sigterm_finishes_a_running_stream_and_leaves_no_process(stack: Stack, http: httpx.Client):
    family = stack.processes()
    assert chat(http, QUESTIONS[0].text).status_code == 200
    tokens = 80  # some seconds; less than the default drain_seconds also on a slow machine
    started = threading.Event()
    lines: list[str] = []

    def stream() -> None:
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": QUESTIONS[2].text}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, headers=USER, timeout=120) as response:
            for line in response.iter_lines():
                lines.append(line)
                started.set()

    reader = threading.Thread(target=stream)
    reader.start()
    assert started.wait(30)
    stack.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{stack.url}/v1/models", timeout=5)
    reader.join(60)
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == tokens
    assert stack.stop() == 0
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [" ".join(process.cmdline()) for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", stack.port)) != 0
