"""A reader of vLLM's shared-memory queue sleeps between messages, and gets each at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

PAUSE_S, COUNT = 0.05, 20
PROGRAM = Path(__file__).with_name("waiting_reader.py")


def waited(how: str) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path]).lstrip(os.pathsep)}
    command = [sys.executable, PROGRAM, str(PAUSE_S), str(COUNT), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_reader_sleeps_between_messages_and_misses_none():
    """A missed one shows: the reader that waits for notifications looks again by itself after 5 s only."""
    found = waited("naps")
    assert found["readers"] == 1
    assert found["taken"] < PAUSE_S * COUNT / 4
    assert found["late"] < 1.0


def test_vllms_own_reader_does_not():
    """What it is there for: if a later vLLM sleeps by itself, this module can go."""
    assert waited("as vLLM does")["taken"] > PAUSE_S * COUNT / 8
