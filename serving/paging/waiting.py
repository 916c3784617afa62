"""How the engine's core process waits for its CPU workers: in short naps.

vLLM 0.29's engine core asks the shared memory for the workers' answer in a loop that never sleeps as long as the last
answer came within a second (`SpinCondition`, `vllm/distributed/device_communicators/shm_broadcast.py`). On a GPU that
saves some microseconds of a step; on CPU, where a step takes tens of milliseconds, it takes two thirds of a core from
the front end and the proxy, or from the workers themselves.

The condition also knows how to wait for a notification, and does so after a second. That is no way to wait for every
step: notifications get lost, and then the reader looks again after 5 s (`SHM_READER_RECHECK_INTERVAL_MS`). With one
client on two cores, most steps took 5 s.
"""

import gc
import logging
import time

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

logger = logging.getLogger(__name__)

NAP_S = 0.5e-3
"""About one per cent of the fastest step of a small model on CPU, and some per cent of a core's time."""


class NappingCondition(SpinCondition):
    """A reader that looks, naps and looks again, and relies on no notification."""

    def wait(self, timeout_ms: int | None = None) -> None:  # noqa: ARG002 (longer in any case)
        """Returns after a nap, which is as good as a notification that says nothing: whoever waits looks again, also
        for the end of the process."""
        time.sleep(NAP_S)


def wait_in_naps(executor: object) -> int:
    """Has all readers of vLLM's shared-memory queues in this process nap from now on; returns how many there are.

    `executor`: vLLM's `distributed_executor_backend`. Workers that are processes (`"mp"`) answer through such a queue:
    where none is found, vLLM has changed and the engine core spins, which is logged as a warning.
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
