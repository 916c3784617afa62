"""`serve deploy` of a changed limit replaces two replicas without a failed request, and of the same file nothing."""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from tests.support import ROOT, free_stack_port


@pytest.fixture(scope="module")
def answers() -> dict[str, list[Any]]:
    with tempfile.TemporaryDirectory(prefix="lw") as folder:  # Unix sockets need a short path
        command = [
            sys.executable,
            "-m",
            "tests.deploy.rolling_stack",
            folder,
            str(free_stack_port(range(19_500, 19_600))),
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    answered: dict[str, list[Any]] = json.loads(done.stdout.splitlines()[-1])
    return answered


def replicas(given: list[Any], limit: int) -> set[int]:
    return {answer["pid"] for answer in given if isinstance(answer, dict) and answer["limit"] == limit}


@pytest.mark.extra
@pytest.mark.slow
def test_no_request_fails_while_a_changed_limit_rolls_out(answers: dict[str, list[Any]]) -> None:
    everything = [answer for part in answers.values() for answer in part]
    assert len(everything) > 100
    assert [answer for answer in everything if not isinstance(answer, dict)] == []
    old, new = replicas(answers["before"], 3), replicas(answers["after"], 4)
    assert len(old) == len(new) == 2
    assert not old & new


@pytest.mark.extra
@pytest.mark.slow
def test_the_same_file_replaces_nothing(answers: dict[str, list[Any]]) -> None:
    assert replicas(answers["again"], 3) == replicas(answers["before"], 3)
