"""The process that hands the applications to Ray Serve: what goes wrong in it is said, and it does not outlive its
starter."""

import sys
import threading
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import ModuleType

import pytest

from serving.config import load_config
from serving.launch import deploy_process as deploying
from serving.launch.deploy_process import Deployer, Deployment
from specs.errors import StartupError


@pytest.mark.slow
def test_what_went_wrong_is_said():
    nowhere = Deployment(load_config(None), Path("/base"), Path("/market"), "no-address", "http://127.0.0.1:2/metrics")
    with Deployer() as deployer, pytest.raises(StartupError, match="no-address"):
        deployer.deploy(nowhere, threading.Event())


def test_a_stop_ends_the_wait_and_the_process():
    stop = threading.Event()
    stop.set()
    with Deployer() as deployer:
        deployer.deploy(Deployment(load_config(None), Path(), Path(), "no-address", ""), stop)
        assert deployer._process.poll() is None
    assert deployer._process.returncode is not None


def test_without_an_order_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch):
    """Its starter has gone: the end of standard input is all that comes. Without what it would import, which the test
    above does."""
    monkeypatch.setitem(sys.modules, "serving.app", ModuleType("serving.app"))
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO()))
    monkeypatch.setattr(deploying, "_deploy", lambda _: pytest.fail("nothing was ordered"))
    assert deploying.main() == 0
