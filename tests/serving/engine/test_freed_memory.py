"""Memory that was freed goes back to the system."""

import ctypes
import threading

import psutil
import pytest

from serving.engine import freed_memory
from serving.engine.freed_memory import give_back, keep_giving_back

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
    monkeypatch.setattr(freed_memory, "give_back", times.release)
    stop = keep_giving_back(0.01)
    assert all(times.acquire(timeout=5) for _ in range(3))
    stop.set()
