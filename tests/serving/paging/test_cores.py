"""The engine core leaves its workers' cores to them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serving.paging.cores import keep_off_workers

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@contextmanager
def child(cores: set[int]) -> Iterator[None]:
    program = f"import os, sys; os.sched_setaffinity(0, {cores}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield
        process.stdin.close()


def in_a_thread() -> tuple[set[int], set[int]]:
    """What it returns and what the thread may use afterwards; this test's own thread stays as it is."""
    found = []
    thread = threading.Thread(target=lambda: found.append((set(keep_off_workers()), os.sched_getaffinity(0))))
    thread.start()
    thread.join()
    return found[0]


def test_it_keeps_off_the_cores_of_bound_children():
    own = os.sched_getaffinity(0)
    first = min(own)
    with child({first}):
        assert in_a_thread() == (own - {first}, own - {first})


def test_children_that_are_not_bound_change_nothing():
    own = os.sched_getaffinity(0)
    with child(own):
        assert in_a_thread() == (own, own)


def test_one_core_at_least_is_left():
    own = os.sched_getaffinity(0)
    first = min(own)
    with child({first}), child(own - {first}):
        assert in_a_thread() == (own, own)
