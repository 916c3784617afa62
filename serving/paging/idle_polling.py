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
import logging
import time

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

logger = logging.getLogger(__name__)

NAP_S = 0.5e-3
"""Seconds of one sleep: about one per cent of the fastest step of a small model on CPU, at some per cent of a core's
time."""


class NappingCondition(SpinCondition):
    """A `SpinCondition` whose reader sleeps between two looks at the shared memory and relies on no notification."""

    def wait(self, timeout_ms: int | None = None) -> None:  # noqa: ARG002 (longer in any case)
        """Sleeps `NAP_S`. The caller then looks again, as after any notification, and also notices the end of the
        process."""
        time.sleep(NAP_S)


def wait_in_naps(executor: object) -> int:
    """Makes all readers of vLLM's shared-memory queues in this process nap from now on, and returns their number.

    `executor` is vLLM's `distributed_executor_backend`. Workers that are processes (`"mp"`) answer through such a
    queue: where none is found, vLLM has changed and the engine core spins, which is logged as a warning.
    """
    readers = [one for one in gc.get_objects() if type(one) is SpinCondition and one.is_reader]
    for reader in readers:
        reader.__class__ = NappingCondition
    if not readers and executor == "mp":
        logger.warning(
            "no reader of vLLM's shared-memory queues was found (looked for %s.%s): the engine core does not sleep "
            "while its workers compute and takes about two thirds of a CPU core for that",
            SpinCondition.__module__,
            SpinCondition.__name__,
        )
    return len(readers)
