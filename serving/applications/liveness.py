"""A health check for applications that do their work in threads."""

import asyncio
from concurrent.futures import Executor

THREAD_WAIT_S = 3.0
"""Seconds in which some thread of the pool must take a new piece of work."""
CHECK_PERIOD_S = 1.0
CHECK_TIMEOUT_S = 4.0
"""Seconds after which Ray takes a check for failed that was not answered, as by a loop that is stuck. Three failures in
a row (`REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD`) replace a replica: after 15 s at most."""

HEALTH_OPTIONS = {"health_check_period_s": CHECK_PERIOD_S, "health_check_timeout_s": CHECK_TIMEOUT_S}
"""Ray Serve's options for the deployment of such an application."""


async def check_threads(*pools: Executor, limit_s: float = THREAD_WAIT_S) -> None:
    """Checks that each of these pools of threads still takes work.

    Raises:
        RuntimeError: no thread of one of them was free within `limit_s` seconds.
    """
    loop = asyncio.get_running_loop()
    asked = [loop.run_in_executor(pool, _nothing) for pool in pools]
    _, stuck = await asyncio.wait(asked, timeout=limit_s)
    if stuck:
        raise RuntimeError(f"no thread of a pool took work within {limit_s:g} s: all of them are stuck")


def _nothing() -> None:
    pass
