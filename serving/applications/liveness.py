"""A health check for applications that do their work in threads of the event loop's pool."""

import asyncio

THREAD_WAIT_S = 3.0
"""Seconds in which some thread of the pool must take a new piece of work."""
CHECK_PERIOD_S = 1.0
CHECK_TIMEOUT_S = 4.0
"""Seconds after which Ray takes a check for failed that was not answered, as by a loop that is stuck. Three failures in
a row (`REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD`) replace a replica: after 15 s at most."""

HEALTH_OPTIONS = {"health_check_period_s": CHECK_PERIOD_S, "health_check_timeout_s": CHECK_TIMEOUT_S}
"""Ray Serve's options for the deployment of such an application."""


async def check_threads(limit_s: float = THREAD_WAIT_S) -> None:
    """Checks that the running loop's pool of threads still takes work.

    Raises:
        RuntimeError: no thread was free within `limit_s` seconds.
    """
    try:
        await asyncio.wait_for(asyncio.to_thread(_nothing), limit_s)
    except TimeoutError:
        raise RuntimeError(f"no thread of the pool took work within {limit_s:g} s: all of them are stuck") from None


def _nothing() -> None:
    pass
