"""`/v1/learnwares`: the market over HTTP, a Ray Serve application of its own.

    GET    /v1/learnwares?q=&domain=&task=&language=&state=    list and search; state: active (default), all, …
    GET    /v1/learnwares/{id}                                 one, with its card
    POST   /v1/learnwares                                      submit a zip (the body)
    PUT    /v1/learnwares/{id}                                 replace it with a zip of a higher version
    POST   /v1/learnwares/{id}/quarantine                      {"reason": …}: serve it no more, keep it
    POST   /v1/learnwares/{id}/release                         take it out of quarantine
    DELETE /v1/learnwares/{id}                                 remove it

An id `owner/name` stands in a path as it is, or with its slash as `%2F`; servers and proxies on the way make no
difference between the two, so neither does this application.

A submission is checked, tried on an engine replica (`serving.replica.trial`), measured there on requests that are not
its task (`serving.replica.off_task_meter`; what the submission says of that itself does not count), and only then
served. A submission that fails is put into quarantine with the reason. One that harms other requests is served all the
same to requests that name it; `auto` will rarely choose it. A change is answered once every router and engine replica
has made it (`"served": true`), or after some seconds in any case (`false`: they follow by themselves).
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.deployment import Application
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.ray_internals import keep_grpc_on_loopback
from serving.applications.access import Access, configured_access
from serving.applications.broadcast import broadcast
from serving.applications.liveness import HEALTH_OPTIONS, check_threads
from serving.applications.market_record import describe_listed, describe_whole
from serving.applications.routing import PrefixedApplication
from serving.applications.upload import uploaded
from serving.config import Config
from serving.names import APPLICATION, ENGINE, MARKET, ROUTER
from serving.requirements import market_requirements
from specs.adapter import adapter_hash
from specs.capability import Capability, capability_of
from specs.errors import InvalidInput, InvalidLearnware, NotReady
from specs.learnware import SPECIFICATION_FOLDER
from specs.market.catalogue import read_catalogue
from specs.market.checks import Requirements
from specs.market.journal import Record, State
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import PROTOCOL, Trial

logger = logging.getLogger("ray.serve")

ROUTE_PREFIX = "/v1/learnwares"
"""Path below which the application answers."""

QUARANTINE = "quarantine"
"""Last part of the path that puts a learnware into quarantine; reserved among ids (`specs.card.RESERVED_NAMES`)."""
RELEASE = "release"
"""Last part of the path that takes a learnware out of quarantine; reserved among ids likewise."""

PROBE_TIMEOUT_S = 120.0
"""Seconds that an engine may take for the trial beside all other requests: `LIMIT_S` and `MORE_LIMIT_S` of
`serving.replica.trial`, and the measurement, whose limits are `HARD_LIMIT_S` and, the first time, `BASE_LIMIT_S` of
`serving.replica.off_task_meter`."""
FOLLOW_TIMEOUT_S = 5.0
"""Seconds that a change waits for the replicas before it is answered; they look every quarter of a second."""

Probe = Callable[[Staged], Coroutine[Any, Any, Trial]]
"""Tries a staged learnware on an engine and returns the result."""
Follow = Callable[[int], Awaitable[bool]]
"""Returns whether every replica has made the market's change of this number, within some seconds."""


class MarketAPI:
    """The routes of `/v1/learnwares`. It knows nothing of Ray: the functions that ask the replicas are passed in."""

    def __init__(self, market: Market, access: Access, max_upload_bytes: int, probe: Probe, follow: Follow) -> None:
        self._market = market
        self._access = access
        self._max_upload_bytes = max_upload_bytes
        self._probe = probe
        self._follow = follow

    def application(self) -> "PrefixedApplication":
        """Builds the ASGI application."""
        one = f"{ROUTE_PREFIX}/{{learnware_id:path}}"
        return PrefixedApplication(
            [
                Route(ROUTE_PREFIX, self._list, methods=["GET"]),
                Route(ROUTE_PREFIX, self._submit, methods=["POST"]),
                Route(one, self._show, methods=["GET"]),
                Route(one, self._replace, methods=["PUT"]),
                Route(one, self._remove, methods=["DELETE"]),
                Route(f"{one}/{QUARANTINE}", self._quarantine, methods=["POST"]),
                Route(f"{one}/{RELEASE}", self._release, methods=["POST"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        self._access.check_read(request)
        query = request.query_params
        unknown = sorted(set(query) - {"q", "domain", "task", "language", "state"})
        state = query.get("state", State.ACTIVE)
        if unknown or state not in (*State, "all"):
            raise InvalidInput(
                f"Query parameters are q, domain, task, language and state ({', '.join(State)}, all); "
                f"not understood: {', '.join(unknown) or f'state={state}'}."
            )
        if state == State.ACTIVE:
            records = await asyncio.to_thread(
                self._market.search,
                query.get("q", ""),
                domain=query.get("domain"),
                task=query.get("task"),
                language=query.get("language"),
            )
        else:
            records = await asyncio.to_thread(self._market.records, None if state == "all" else State(state))
        unserved = await asyncio.to_thread(self._market.unserved)
        listed = await asyncio.to_thread(lambda: [describe_listed(self._market, record) for record in records])
        return JSONResponse({"object": "list", "data": listed, "unserved": unserved})

    async def _show(self, request: Request) -> Response:
        self._access.check_read(request)
        record = await asyncio.to_thread(self._market.show, _id_in(request))
        return JSONResponse(await asyncio.to_thread(describe_whole, self._market, record))

    async def _submit(self, request: Request) -> Response:
        self._access.check_change(request)
        async with uploaded(request, "upload.zip", self._max_upload_bytes) as path:
            record = await self._take(path, None)
        return await self._done(record, 201)

    async def _replace(self, request: Request) -> Response:
        self._access.check_change(request)
        learnware_id = _id_in(request)
        await asyncio.to_thread(self._market.active, learnware_id)
        async with uploaded(request, "upload.zip", self._max_upload_bytes) as path:
            record = await self._take(path, learnware_id)
        return await self._done(record, 200)

    async def _remove(self, request: Request) -> Response:
        self._access.check_change(request)
        record = await asyncio.to_thread(self._market.remove, _id_in(request))
        return await self._done(record, 200)

    async def _quarantine(self, request: Request) -> Response:
        self._access.check_change(request)
        try:
            reason = json.loads(await request.body())["reason"]
        except (ValueError, KeyError, TypeError):
            reason = None
        if not isinstance(reason, str):
            raise InvalidInput('The body must be a JSON object with a text: {"reason": "…"}.')
        record = await asyncio.to_thread(self._market.quarantine, _id_in(request), reason)
        return await self._done(record, 200)

    async def _release(self, request: Request) -> Response:
        self._access.check_change(request)
        record = await asyncio.to_thread(self._market.release, _id_in(request))
        return await self._done(record, 200)

    async def _take(self, source: Path, replaced: str | None) -> Record:
        """Stages, tries and activates the zip at `source`, in a thread; only the trial runs in the event loop."""
        loop = asyncio.get_running_loop()

        def take() -> Record:
            with self._market.stage(source, recorded_as=replaced) as staged:
                if replaced not in (None, staged.learnware.id):
                    raise InvalidInput(
                        f"The zip holds learnware {staged.learnware.id!r}, but {replaced!r} is to be replaced."
                    )
                self._market.check_acceptable(staged, replace=replaced is not None)
                trial = asyncio.run_coroutine_threadsafe(self._probe(staged), loop).result()
                if trial.refusal is not None:
                    self._market.refuse(staged, trial.refusal)
                    raise InvalidLearnware(f"learnware {staged.learnware.id}: {trial.refusal}")
                tried = self._market.with_capability(staged, measured(staged, trial))
                tried = tried._replace(notes=(*staged.notes, *trial.notes))
                return (self._market.submit if replaced is None else self._market.replace)(tried)

        return await asyncio.to_thread(take)

    async def _done(self, record: Record, status: int) -> Response:
        catalogue = await asyncio.to_thread(read_catalogue, self._market.root)
        followed = await self._follow(catalogue.sequence)
        await asyncio.to_thread(self._market.collect_garbage)
        described = await asyncio.to_thread(describe_listed, self._market, record)
        return JSONResponse(described | {"served": followed and record.state is State.ACTIVE}, status)


def _id_in(request: Request) -> str:
    """Returns the learnware's id in a request's path. Whether there is such a learnware is the market's to say.

    Raises:
        HTTPException: the path has too many parts for an id, or is that of something below a learnware's, which this
            method does nothing with.
    """
    learnware_id: str = request.path_params["learnware_id"]
    _, *rest = learnware_id.split("/")
    if len(rest) > 1:
        raise HTTPException(404)
    if rest in ([QUARANTINE], [RELEASE]):
        raise HTTPException(405)
    return learnware_id


def measured(staged: Staged, trial: Trial) -> Capability:
    """Returns the capability of a tried learnware: of its own tasks what it came with, off them what was measured here.
    What a submission says of itself off its task does not count, measured here or not."""
    place = staged.folder / SPECIFICATION_FOLDER
    own = capability_of(place, staged.learnware.base_model, adapter_hash(staged.folder))
    return replace(own, elsewhere=trial.elsewhere, elsewhere_protocol=PROTOCOL if trial.elsewhere else "")


class MarketServer:
    """The application's one replica; it and the command line are the market's writers."""

    def __init__(
        self, folder: Path, needed: Requirements, access: Access, max_upload_bytes: int, on_loopback: bool
    ) -> None:
        if on_loopback:
            keep_grpc_on_loopback()
        market = Market(folder, needed)
        self._market = market
        self._api = MarketAPI(market, access, max_upload_bytes, _probe_on_engine, _wait_for_replicas)

    async def __serve_build_asgi_app__(self) -> Starlette:
        return self._api.application()

    async def check_health(self) -> None:
        """Fails when the threads that do the market's work are stuck."""
        await check_threads()

    async def not_loaded(self, learnware_id: str, sha256: str, reason: str) -> None:
        """Looks after a version that an engine replica could not load; puts it into quarantine if its files are
        broken."""
        record = await asyncio.to_thread(self._market.check_files, learnware_id, sha256, reason)
        if record is None:
            logger.warning("the files of learnware %s are whole, but an engine says: %s", learnware_id, reason)
        else:
            logger.error("learnware %s is in quarantine: %s", learnware_id, record.reason)


async def _probe_on_engine(staged: Staged) -> Trial:
    try:
        handle = await asyncio.to_thread(serve.get_deployment_handle, ENGINE, app_name=APPLICATION)
        entry = staged.entry
        specification = staged.learnware.specification
        answers = None if specification is None else specification.answers
        asked = handle.probe.remote(
            entry.id,
            entry.version,
            entry.sha256,
            str(entry.folder),
            staged.card.domain,
            staged.card.examples,
            () if answers is None else answers.labels,
        )
        trial: Trial = await asyncio.wait_for(_result(asked), PROBE_TIMEOUT_S)
    except TimeoutError:
        raise NotReady(f"No engine replica tried the learnware within {PROBE_TIMEOUT_S:g} s. Try again.") from None
    return trial


async def _result(response: Any) -> Any:
    return await response


async def _wait_for_replicas(sequence: int) -> bool:
    async def wait(deployment: str) -> bool:
        handle = await asyncio.to_thread(serve.get_deployment_handle, deployment, app_name=APPLICATION)
        answers = await broadcast(handle, "market_reached", FOLLOW_TIMEOUT_S, sequence)
        return all(isinstance(answer, int) for answer in answers)

    try:
        return all(await asyncio.gather(wait(ENGINE), wait(ROUTER)))
    except Exception:
        logger.exception("not every replica was asked about change number %d of the market", sequence)
        return False


def market_application(config: Config, base: Path, folder: Path, *, on_loopback: bool) -> Application:
    """Builds the application to run with `route_prefix=ROUTE_PREFIX` beside the one that serves the market in `folder`.

    `base` is the base model's folder; `on_loopback` says that the stack is this machine's alone.
    """
    deployment = serve.deployment(
        serve.ingress()(MarketServer),
        name=MARKET,
        graceful_shutdown_wait_loop_s=0.1,
        **HEALTH_OPTIONS,
        ray_actor_options={"num_cpus": 0},
    )
    built: Application = deployment.bind(
        folder,
        market_requirements(config, base),
        configured_access(config),
        int(config.market.max_upload_mib * (1 << 20)),
        on_loopback,
    )
    return built
