"""A worker's memory does not grow with the variety of what it computes."""

import ctypes
import os
import threading

import psutil
import pytest

from serving.engine import memory
from serving.engine.memory import CAPACITY_VARIABLE, bound_generated_code, give_back, keep_giving_back

MIB = 1 << 20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_was_freed_between_what_is_held_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size, process = 64 << 10, psutil.Process()  # below the size from which on each block is a mapping of its own
    blocks = [libc.malloc(size) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    full = process.memory_info().rss
    for block in blocks[:-1:2] + blocks[1:-1:2]:  # all but the last, which keeps the heap's end
        libc.free(block)
    give_back()
    assert process.memory_info().rss < full - 60 * MIB
    libc.free(blocks[-1])


def test_it_is_given_back_again_and_again_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    times = threading.Semaphore(0)
    monkeypatch.setattr(memory, "give_back", times.release)
    stop = keep_giving_back(0.01)
    assert all(times.acquire(timeout=5) for _ in range(3))
    stop.set()


@pytest.mark.parametrize(("given", "there"), [(None, "32"), ("64", "64")])
def test_generated_code_is_bounded_unless_the_operator_says_how_much(
    monkeypatch: pytest.MonkeyPatch, given: str | None, there: str
) -> None:
    monkeypatch.delenv(CAPACITY_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(CAPACITY_VARIABLE, given)
    bound_generated_code()
    assert os.environ[CAPACITY_VARIABLE] == there
    monkeypatch.setenv(CAPACITY_VARIABLE, "")  # what the test has set goes with it
