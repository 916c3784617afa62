"""A reader of vLLM's shared-memory queue sleeps between messages, and gets each at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAUSE_S, COUNT = 0.05, 20
PROGRAM = Path(__file__).with_name("waiting_reader.py")


SPINS = "the engine core does not sleep"


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["", *sys.path]).lstrip(os.pathsep)}
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=True
    )


def waited(how: str) -> dict[str, Any]:
    done = run(PROGRAM, str(PAUSE_S), str(COUNT), how)
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


@pytest.mark.slow
def test_a_reader_sleeps_between_messages_and_misses_none():
    """A missed one shows: the reader that waits for notifications looks again by itself after 5 s only."""
    found = waited("naps")
    assert found["readers"] == 1
    assert found["taken"] < PAUSE_S * COUNT / 4
    assert found["late"] < 1.0
    assert SPINS not in found["said"]


@pytest.mark.slow
def test_where_nothing_was_found_to_nap_it_is_said():
    """On stderr, since an engine core's process has no handler for our loggers; and where workers are no processes,
    there is nothing to find."""
    program = (
        "import sys; from serving.paging.idle_polling import wait_in_naps; found = [wait_in_naps('uni')];"
        "print('next', file=sys.stderr); found.append(wait_in_naps('mp')); print(found)"
    )
    done = run("-c", program)
    silent, _, loud = done.stderr.partition("next\n")
    assert done.stdout.splitlines()[-1] == "[0, 0]"
    assert SPINS not in silent
    assert SPINS in loud


@pytest.mark.slow
def test_vllms_own_reader_does_not():
    """What it is there for: if a later vLLM sleeps by itself, this module can go."""
    assert waited("as vLLM does")["taken"] > PAUSE_S * COUNT / 8
