"""Idle polling: the engine's core process waits for its CPU workers in short sleeps (naps) instead of a busy loop.

vLLM 0.29's engine core reads the workers' answer from shared memory in a loop that never sleeps as long as the last
answer came within a second (`SpinCondition`, `vllm/distributed/device_communicators/shm_broadcast.py`). On a GPU that
saves some microseconds of a step; on CPU, where a step takes tens of milliseconds, it takes two thirds of a core from
the front end and the proxy, or from the workers themselves.

The condition can also wait for a notification, and does so after a second. That does not serve for every step:
notifications get lost, and then the reader looks again after 5 s (`SHM_READER_RECHECK_INTERVAL_MS`). With one client on
two cores, most steps took 5 s.
"""

import gc
import time

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

NAP_S = 0.5e-3
"""Seconds of one sleep: about one per cent of the fastest step of a small model on CPU, at some per cent of a core's
time."""


class NappingCondition(SpinCondition):
    """A `SpinCondition` whose reader sleeps between two looks at the shared memory and relies on no notification."""

    def wait(self, timeout_ms: int | None = None) -> None:  # noqa: ARG002 (longer in any case)
        """Sleeps `NAP_S`. The caller then looks again, as after any notification, and also notices the end of the
        process."""
        time.sleep(NAP_S)


def wait_in_naps() -> int:
    """Makes all readers of vLLM's shared-memory queues in this process sleep between two looks from now on; returns how
    many readers there are."""
    readers = [one for one in gc.get_objects() if type(one) is SpinCondition and one.is_reader]
    for reader in readers:
        reader.__class__ = NappingCondition
    return len(readers)
