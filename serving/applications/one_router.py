"""Calls a method on one replica of the router, whichever Ray picks, within a time limit."""

import asyncio
import logging
from typing import Any

from ray import serve

from serving.names import APPLICATION, ROUTER
from specs.errors import NotReady, Overloaded

logger = logging.getLogger("ray.serve")


async def ask_a_router(method: str, argument: Any, timeout_s: float, advice: str = "Try again.") -> dict[str, Any]:
    """Returns what `method` of a router answers for `argument`.

    Raises:
        Overloaded: the router has more to decide than it can.
        NotReady: none answers within `timeout_s` seconds; its message ends with `advice`.
    """

    async def ask() -> dict[str, Any]:
        # in a thread: it asks Serve's controller and waits for the answer
        handle = await asyncio.to_thread(serve.get_deployment_handle, ROUTER, app_name=APPLICATION)
        answer: dict[str, Any] = await getattr(handle, method).remote(argument)
        return answer

    try:
        return await asyncio.wait_for(ask(), timeout_s)
    except Overloaded as refusal:  # as Ray raises it: with the router's own one as its cause
        raise getattr(refusal, "cause", refusal) from None
    except Exception:
        logger.exception("no router answered (%s)", method)
        raise NotReady(f"No router answers at the moment. {advice}") from None
