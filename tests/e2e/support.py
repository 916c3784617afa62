"""A running stack, started as a user starts it, and what the end-to-end tests ask of it."""

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
import pytest

from tests.support import free_stack_port

START_DEADLINE_S = 300
BASE = "SmolLM2-135M-Instruct"
ADMIN_KEY = "end-to-end"
USER_KEY = "lw-a-user-of-the-end-to-end-tests"
OTHER_KEY = "lw-another-user-of-the-end-to-end-tests"
TENANTS: Mapping[str, Mapping[str, object]] = {"user": {"key": USER_KEY, "metrics": True}, "other": {"key": OTHER_KEY}}
"""The tenants of the key file."""
USER = {"authorization": f"Bearer {USER_KEY}"}


class Stack:
    """A stack in its own process group, and what it printed."""

    def __init__(self, folder: Path, config: dict[str, object]) -> None:
        self.port = free_stack_port(range(18_100, 18_400))
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "serve.log"
        self.keys = folder / "keys.json"
        self.write_keys(TENANTS)
        path = folder / "config.yaml"
        path.write_text(json.dumps(config | {"keys": {"file": str(self.keys)}}))
        command = [sys.executable, "-m", "serving.cli", "serve", "--config", str(path), "--port", str(self.port)]
        self.reason_of_first_request = ""
        self.started = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def write_keys(self, tenants: Mapping[str, Mapping[str, object]]) -> None:
        """Writes the key file: by tenant the key and what is granted, as `learnware-serving keys add` would."""
        keys = [
            {"name": name, "sha256": hashlib.sha256(str(granted.pop("key")).encode()).hexdigest(), **granted}
            for name, granted in ((name, dict(granted)) for name, granted in tenants.items())
        ]
        new = self.keys.with_suffix(".new")
        new.write_text(json.dumps({"format": 1, "keys": keys}))
        new.chmod(0o600)
        new.replace(self.keys)

    def client(self, timeout: float = 120, **options: Any) -> httpx.Client:
        """Opens an HTTP client that sends the user's key."""
        return httpx.Client(base_url=self.url, timeout=timeout, headers=USER, **options)

    def openai(self) -> openai.OpenAI:
        """Opens an OpenAI client that sends the user's key."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=USER_KEY, timeout=120, max_retries=0)

    def wait_until_ready(self) -> float:
        """Seconds from the start until the command says that it is ready."""
        while "curl" not in self.output():
            if self.process.poll() is not None:
                pytest.fail(f"the stack ended with status {self.process.returncode}:\n{self.output()[-4000:]}")
            if time.monotonic() - self.started > START_DEADLINE_S:
                pytest.fail(f"not ready in {START_DEADLINE_S} s:\n{self.output()[-4000:]}")
            time.sleep(0.3)
        return time.monotonic() - self.started

    def first_reason(self) -> str:
        """Why the first request was answered as it was, sent the moment that `/v1/models` answers."""
        with self.client(60) as client:
            while True:
                try:
                    if client.get("/v1/models").status_code == 200:
                        return str(chat(client, QUESTIONS[0].text).headers["x-learnware-reason"])
                except httpx.TransportError:
                    pass
                if self.process.poll() is not None or time.monotonic() - self.started > START_DEADLINE_S:
                    return "never ready"
                time.sleep(0.02)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """The command and everything that it started."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def routers(self) -> list[psutil.Process]:
        """The router replicas' processes; one that ends meanwhile is left out."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "ServeReplica:learnware:router" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self, deadline_s: float = 60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline_s)


class Question(NamedTuple):
    domain: str
    text: str


QUESTIONS = (
    Question(
        "finance",
        "Is the sentiment of this financial news positive, neutral or negative?\n"
        "Net sales fell to EUR 2.1 mn from EUR 3.4 mn.",
    ),
    Question(
        "healthcare",
        "A 61-year-old woman has polyuria and a fasting glucose of 212 mg/dL. Which drug is given first?\n"
        "A. Metformin\nB. Aspirin",
    ),
    Question("mathematics", "Maria had 14 apples, gave 5 to Tom and bought 9 more. How many apples does she have now?"),
)


def chat(http: httpx.Client, text: str, model: str = "auto", **fields: object) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 8,
        "temperature": 0,
        **fields,
    }
    return http.post("/v1/chat/completions", json=body)


def metric(text: str, name: str, **labels: str) -> float:
    """The sum of all samples of `name` whose labels include these."""
    total = 0.0
    for line in text.splitlines():
        match = re.match(rf"{name}(?:\{{(.*)\}})? (\S+)$", line)
        if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
            total += float(match[2])
    return total
