"""One running stack for all end-to-end tests, and which of them comes last: the one that ends it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.support import ADMIN_KEY, Stack


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: after all other end-to-end tests, since it ends their stack")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts those marked `last` behind the others of this folder; tests of other folders stay where they are."""
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ours = sorted((items[place] for place in places), key=lambda item: item.get_closest_marker("last") is not None)
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The default configuration with API keys, and with fewer slots than learnwares, so that the tests also page
    adapters."""
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
    with stack.client() as client:
        yield client
