"""1,000 random operations with kills in between: nothing lost, nothing half-there."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

OPERATIONS = int(os.environ.get("LEARNWARE_TEST_MARKET_OPERATIONS", "1000"))
MEMORY = Path("/dev/shm")
"""Where `fsync` costs nothing. What a killed process wrote is seen by the next one on any file system; only the loss of
power would tell them apart, and no test here can cause that."""


@pytest.mark.extra
@pytest.mark.timeout(max(300, OPERATIONS))
def test_random_operations_with_kills_in_between(tmp_path: Path) -> None:
    base = MEMORY if os.access(MEMORY, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="market-", dir=base) as folder:
        command = [sys.executable, "-m", "tests.specs.market.random_operations", folder, str(OPERATIONS), "11"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["operations"] >= OPERATIONS
    assert report["kills"] >= OPERATIONS / 25
    # kills that meant something: some fell after a change took effect and before it was acknowledged, some before
    assert report["cut_and_in_effect"] > 0
    assert report["cut_and_not"] > 0
    changes = {"submit", "replace", "remove", "quarantine", "release", "canary", "promote", "roll-back"}
    assert set(report["kinds"]) == changes | {"refuse", "collect"}
