"""The check of an application's threads."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.applications.liveness import CHECK_TIMEOUT_S, HEALTH_OPTIONS, THREAD_WAIT_S, check_threads


async def test_threads_that_take_work_are_well_and_a_pool_that_is_stuck_is_not():
    release = threading.Event()
    well, other = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    await check_threads(well, other, limit_s=10)
    stuck = asyncio.get_running_loop().run_in_executor(other, release.wait)
    with pytest.raises(RuntimeError, match=r"within 0\.05 s"):
        await check_threads(well, other, limit_s=0.05)
    await check_threads(well, limit_s=10)
    release.set()
    await stuck
    await check_threads(well, other, limit_s=10)


def test_three_failures_in_a_row_come_within_fifteen_seconds():
    assert THREAD_WAIT_S < CHECK_TIMEOUT_S
    assert 3 * (CHECK_TIMEOUT_S + HEALTH_OPTIONS["health_check_period_s"]) <= 15
