"""Which cores the engine's core process may use beside its CPU workers.

While a step runs, vLLM 0.29's engine core asks the shared memory for the worker's answer in a loop that never sleeps
(`SpinCondition`, `vllm/distributed/device_communicators/shm_broadcast.py`). vLLM binds the workers to their cores and
keeps others free for everything else, but leaves the engine core free to run anywhere: where more than it wants those
other cores, it moves to a worker's and takes half of it.
"""

import logging
import os

import psutil

logger = logging.getLogger(__name__)


def keep_off_workers() -> frozenset[int]:
    """Keeps the calling thread off the cores to which this process's children are bound; returns those it may use.

    Nothing changes where the children are not bound, or where no core would be left.
    """
    own = os.sched_getaffinity(0)
    bound: set[int] = set()
    for child in psutil.Process().children():
        try:
            cores = set(child.cpu_affinity())
        except psutil.Error:  # it has ended
            continue
        if cores < own:
            bound |= cores
    left = own - bound
    if bound and left:
        os.sched_setaffinity(0, left)
        logger.info("the engine core keeps off its workers' cores %s", sorted(bound))
        return frozenset(left)
    return frozenset(own)
