"""The process that hands the applications to Ray Serve: what goes wrong in it is said, and it does not outlive its
starter."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from serving.config import load_config
from serving.launch.deploy_process import Deployer, Deployment
from specs.errors import StartupError


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


def test_without_an_order_it_ends_by_itself():
    command = [sys.executable, "-m", "serving.launch.deploy_process"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=120, check=False).returncode == 0
