"""Calls a method on every replica of a deployment, each with a time limit of its own."""

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle


async def broadcast(
    handle: DeploymentHandle[Any], method: str, timeout_s: float, *arguments: Any
) -> list[Any | BaseException]:
    """Calls `method` on every replica; returns each one's result, or the error for which it has none, such as a
    TimeoutError after `timeout_s` seconds.

    Ray 2.60's public `results_async` has one limit for all replicas together: a single slow one loses every answer. So
    the replicas' own results are awaited one by one.

    Raises:
        DeploymentUnavailableError: the deployment has no running replica.
        TimeoutError: its replicas did not become known in time.
    """
    response = handle.broadcast(method, *arguments)
    results = await asyncio.wait_for(response._fetch_replica_results_async(), timeout_s)  # noqa: SLF001
    waits = (asyncio.wait_for(result.get_async(), timeout_s) for result in results)
    return await asyncio.gather(*waits, return_exceptions=True)
