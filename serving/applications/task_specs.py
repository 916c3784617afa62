"""`/v1/task-specs`: task specifications over HTTP, a Ray Serve application of its own.

    POST   /v1/task-specs          the file of `learnware-serving spec make` as the body; answers with its id
    GET    /v1/task-specs/{id}     what is known of one, and the choice for it now: the nearest learnwares with what is
                                   expected of them, also where the base model was chosen, and why
    DELETE /v1/task-specs/{id}     forget it

The id is made from the content, so posting a file twice gives the same one. It is good as `model` at once and on every
router, because routers read the folder in which this application keeps the files. Ids are not listed, and cannot be
guessed: whoever knows one may use it as `model`. Only who has posted a file can show or remove it, and whoever has the
admin key; to others there is none. A key may have so many (`market.task_specs_per_key`), and one goes when it was
neither posted nor used for a time (`market.task_specs_days`).
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.deployment import Application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.ray_internals import keep_grpc_on_loopback
from serving.access.tenant import ANONYMOUS_NAME, Tenant
from serving.applications.access import Access, configured_access
from serving.applications.one_router import ask_a_router
from serving.applications.routing import PrefixedApplication
from serving.applications.upload import bounded_body
from serving.config import Config
from specs.errors import InvalidInput, UnknownModel
from specs.task import MAX_BYTES, TaskSpecification, load_task_specification
from specs.task_store import TaskStore

ROUTE_PREFIX = "/v1/task-specs"
"""Path below which the application answers."""

CHOICE_TIMEOUT_S = 5.0
"""Seconds that a router may take for a choice that costs it about a millisecond."""

DAY_S = 86400.0
"""Seconds of a day."""
LONGEST_SHOWN = 100
"""Characters of an id that an error repeats."""

_OF_THE_CHOICE = ("learnware", "reason", "explanation", "confidence", "match", "min_match", "tasks", "base")
"""Keys that an answer takes over from the router's explanation of a choice."""
_OF_A_CANDIDATE = ("learnware", "score", "expected")
"""Keys that an answer takes over from each candidate of that explanation."""

Choose = Callable[[str], Awaitable[dict[str, Any]]]
"""Returns the router's choice for a task's id, as `/v1/route` explains it."""


class TaskSpecsAPI:
    """The routes of `/v1/task-specs`. It knows nothing of Ray: the function that asks the router is passed in."""

    def __init__(self, tasks: TaskStore, access: Access, choose: Choose) -> None:
        self._tasks = tasks
        self._access = access
        self._choose = choose

    def application(self) -> PrefixedApplication:
        """Builds the ASGI application."""
        one = f"{ROUTE_PREFIX}/{{task_id}}"
        return PrefixedApplication(
            [
                Route(ROUTE_PREFIX, self._upload, methods=["POST"]),
                Route(one, self._show, methods=["GET"]),
                Route(one, self._remove, methods=["DELETE"]),
            ]
        )

    async def _upload(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        too_large = f"A task's specification has at most {MAX_BYTES >> 10} KiB."
        content = await bounded_body(request, MAX_BYTES, too_large)
        if not content:
            raise InvalidInput("The body is empty; it must be the file that `learnware-serving spec make` wrote.")
        specification = await asyncio.to_thread(load_task_specification, content)
        # where no key is needed, all are one tenant, whom a quota would only shut out together
        unbounded = tenant.admin or not self._access.keyring.required
        name = await asyncio.to_thread(self._tasks.put, specification, tenant.name, unbounded=unbounded)
        return JSONResponse(await self._describe(name, specification), 201)

    async def _show(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        name = request.path_params["task_id"]
        if not await asyncio.to_thread(self._may_see, tenant, name):
            raise _unknown(name)
        specification = await asyncio.to_thread(self._tasks.find, name)
        if specification is None:
            raise _unknown(name)
        return JSONResponse(await self._describe(name, specification))

    async def _remove(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        name = request.path_params["task_id"]
        if not await asyncio.to_thread(self._remove_for, tenant, name):
            raise _unknown(name)
        return JSONResponse({"id": name, "object": "task_specification", "deleted": True})

    def _may_see(self, tenant: Tenant, name: str) -> bool:
        return tenant.admin or self._tasks.is_owner(name, tenant.name) or self._is_common(tenant, name)

    def _remove_for(self, tenant: Tenant, name: str) -> bool:
        everywhere = tenant.admin or self._is_common(tenant, name)
        return self._tasks.remove(name, None if everywhere else tenant.name)

    def _is_common(self, tenant: Tenant, name: str) -> bool:
        """Whether a specification that nobody owns, kept by an earlier version, is as good as this tenant's: so it is
        where no key is needed."""
        return tenant.name == ANONYMOUS_NAME and not self._tasks.has_owner(name)

    async def _describe(self, name: str, specification: TaskSpecification) -> dict[str, Any]:
        choice = await self._choose(name)
        return {
            "id": name,
            "object": "task_specification",
            "rows": specification.rows,
            "noise": specification.noise,
            "mu": specification.mu if math.isfinite(specification.mu) else None,
            "encoder": specification.encoder_id,
            **{key: choice[key] for key in _OF_THE_CHOICE},
            "candidates": [{key: each[key] for key in _OF_A_CANDIDATE} for each in choice["candidates"]],
            "advice": _advice(specification) if choice["learnware"] is None else None,
        }


def _advice(specification: TaskSpecification) -> str | None:
    """Returns what the owner of a task that got no learnware can do about it, None when noise is not the cause."""
    if not specification.blurred:
        return None
    return (
        f"The noise of {specification.rows:,} rows at mu = {specification.mu:.3g} may hide what the task is. "
        f"{specification.clear_rows:,} rows would be enough at this mu, or a larger mu (`learnware-serving spec make "
        "--mu`), which protects single rows less."
    )


def _unknown(name: str) -> UnknownModel:
    return UnknownModel(
        f"There is no task {name[:LONGEST_SHOWN]!r} of yours. POST the file of `learnware-serving spec make` to "
        f"{ROUTE_PREFIX}; the answer has the id."
    )


class TaskSpecsServer:
    """The application's one replica."""

    def __init__(self, market: Path, access: Access, on_loopback: bool, max_owned: int, keep_s: float) -> None:
        if on_loopback:
            keep_grpc_on_loopback()
        self._api = TaskSpecsAPI(TaskStore(market, max_owned=max_owned, keep_s=keep_s), access, _ask_the_router)

    async def __serve_build_asgi_app__(self) -> Starlette:
        return self._api.application()


async def _ask_the_router(name: str) -> dict[str, Any]:
    body = json.dumps({"model": name}).encode()
    return await ask_a_router("explain", body, CHOICE_TIMEOUT_S, "Try again; nothing is lost by posting twice.")


def task_specs_application(config: Config, market: Path, *, on_loopback: bool) -> Application:
    """Builds the application to run with `route_prefix=ROUTE_PREFIX` beside the one that serves the market in `market`.

    `on_loopback` says that the stack is this machine's alone.
    """
    deployment = serve.deployment(
        serve.ingress()(TaskSpecsServer),
        name="task-specs",
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0},
    )
    settings = config.market
    built: Application = deployment.bind(
        market,
        configured_access(config),
        on_loopback,
        settings.task_specs_per_key,
        settings.task_specs_days * DAY_S,
    )
    return built
