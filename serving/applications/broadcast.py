"""Calls a method on every replica of a deployment, each with a time limit of its own."""

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from router.ray_internals import broadcast_answers


async def broadcast(
    handle: DeploymentHandle[Any], method: str, timeout_s: float, *arguments: Any
) -> list[Any | BaseException]:
    """Calls `method` on every replica; returns each one's result, or the error for which it has none, such as a
    TimeoutError after `timeout_s` seconds.

    Ray 2.60's public `results_async` has one limit for all replicas together: a single slow one loses every answer. So
    the replicas' own results are awaited one by one.

    Raises:
        RayChanged: the installed Ray does not show the replicas' results one by one.
        DeploymentUnavailableError: the deployment has no running replica.
        TimeoutError: its replicas did not become known in time.
    """
    response = handle.broadcast(method, *arguments)
    answers = await asyncio.wait_for(broadcast_answers(response), timeout_s)
    waits = (asyncio.wait_for(answer, timeout_s) for answer in answers)
    return await asyncio.gather(*waits, return_exceptions=True)
