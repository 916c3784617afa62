"""One running stack for all end-to-end tests."""

import os
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.support import ADMIN_KEY, Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The default configuration, with fewer slots than learnwares, so that the tests also page adapters."""
    running = Stack(
        tmp_path_factory.mktemp("stack"),
        {"engine": {"slots": 4, "max_model_len": 1024, "max_num_seqs": 8}, "market": {"admin_key": ADMIN_KEY}},
    )
    try:
        running.reason_of_first_request = running.first_reason()
        running.wait_until_ready()
        yield running
    finally:
        try:
            running.stop()
        except subprocess.TimeoutExpired:
            os.killpg(running.process.pid, signal.SIGKILL)
            pytest.fail("SIGTERM did not end the stack in 60 s")


@pytest.fixture(scope="session")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=120) as client:
        yield client
