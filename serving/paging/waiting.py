"""How the engine's core process waits for its CPU workers: asleep.

vLLM 0.29's engine core asks the shared memory for the workers' answer in a loop that never sleeps as long as the last
answer came within a second (`SpinCondition`, `vllm/distributed/device_communicators/shm_broadcast.py`). On a GPU that
saves some microseconds of a step; on CPU, where a step takes tens of milliseconds, it takes two thirds of a core from
the front end and the proxy, or from the workers themselves. The condition already knows how to wait for a notification
instead, and does so when it is idle.
"""

import gc

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition


def wait_asleep() -> int:
    """Has all readers of vLLM's shared-memory queues in this process wait for a notification at once; returns how many
    there are."""
    readers = [one for one in gc.get_objects() if type(one) is SpinCondition and one.is_reader]
    for reader in readers:
        reader.busy_loop_s = 0.0
    return len(readers)
