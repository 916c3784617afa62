"""A reader of vLLM's shared-memory queue sleeps until the message comes, and gets it at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

PAUSE_S = 0.5
PROGRAM = Path(__file__).with_name("waiting_reader.py")


def waited(how: str) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path]).lstrip(os.pathsep)}
    command = [sys.executable, PROGRAM, str(PAUSE_S), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_reader_sleeps_between_messages():
    found = waited("asleep")
    assert found["readers"] == 1
    assert found["taken"] < PAUSE_S / 4
    assert found["late"] < PAUSE_S


def test_vllms_own_reader_does_not():
    """What it is there for: if a later vLLM sleeps by itself, this module can go."""
    assert waited("as vLLM does")["taken"] > PAUSE_S / 8
