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
has made it (`"served": true`), or after some seconds in any case (`false`: they follow by themselves). An upload with
`Accept: text/event-stream` is answered with its progress (`serving.applications.upload_events`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
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
from serving.applications.intake import Intake, MarketThreads, Probe
from serving.applications.liveness import HEALTH_OPTIONS, check_threads
from serving.applications.market_keeper import MarketKeeper
from serving.applications.market_record import describe_listed, describe_whole
from serving.applications.routing import PrefixedApplication
from serving.applications.upload import bounded_body, uploaded
from serving.applications.upload_events import EventAnswer, Note, no_note, wants_events
from serving.applications.upload_line import in_thread, while_connected
from serving.config import Config
from serving.names import APPLICATION, ENGINE, MARKET, ROUTER
from serving.requirements import market_requirements
from specs.card_text import Kind, text_fault
from specs.errors import InvalidInput, LearnwareError, NotReady
from specs.market.checks import Requirements
from specs.market.child_checks import ChildChecks
from specs.market.journal import Record, State
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import Trial
from specs.untrusted import load_json

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

ONGOING = 1000
"""The most requests that Ray hands to the application at a time. Each kind is bounded before: uploads by their line,
others by their threads; Ray's own five would make reads wait for uploads."""
LOCK_S = 2.0
"""Seconds that a change over HTTP waits for the command line's, before it is answered 503."""
MAX_REASON_BYTES = 16 << 10
"""Size in bytes of the largest body with a reason."""
REASON = Kind(2_000, prose=True)
"""Bounds of the reason of a quarantine."""

Follow = Callable[[int], Awaitable[bool]]
"""Returns whether every replica has made the market's change of this number, within some seconds."""


class MarketAPI:
    """The routes of `/v1/learnwares`. It knows nothing of Ray: the functions that ask the replicas are passed in.

    Reads, quick changes and uploads have threads of their own: an upload may take minutes, and nothing else waits for
    it. `give_up` makes a check that is under way end soon (`specs.market.child_checks.ChildChecks.stop`).
    """

    def __init__(
        self,
        market: Market,
        access: Access,
        max_upload_bytes: int,
        probe: Probe,
        follow: Follow,
        give_up: Callable[[], object] = lambda: None,
    ) -> None:
        self._market = market
        self._access = access
        self._max_upload_bytes = max_upload_bytes
        self._follow = follow
        self.threads = MarketThreads()
        self._intake = Intake(market, self.threads, probe, give_up)
        self.keeper = MarketKeeper(self._reconcile)

    async def _reconcile(self) -> bool:
        return await in_thread(self.threads.keeping, self._market.reconcile)

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
        wanted = None if state == "all" else State(state)

        def listed() -> dict[str, Any]:
            if wanted is State.ACTIVE:
                records = self._market.search(
                    query.get("q", ""),
                    domain=query.get("domain"),
                    task=query.get("task"),
                    language=query.get("language"),
                )
            else:
                records = self._market.records(wanted)
            data = [describe_listed(self._market, record) for record in records]
            return {"object": "list", "data": data, "unserved": self._market.unserved()}

        behind = self._behind()
        found = await in_thread(self.threads.reading, listed)
        return _json(found | ({} if behind is None else {"unpublished": behind}))

    async def _show(self, request: Request) -> Response:
        self._access.check_read(request)
        learnware_id = _id_in(request)
        described = await in_thread(
            self.threads.reading, lambda: describe_whole(self._market, self._market.show(learnware_id))
        )
        return _json(described)

    async def _submit(self, request: Request) -> Response:
        self._access.check_change(request)
        return await self._upload_answer(request, None, 201)

    async def _replace(self, request: Request) -> Response:
        self._access.check_change(request)
        learnware_id = _id_in(request)
        await in_thread(self.threads.reading, partial(self._market.active, learnware_id))
        return await self._upload_answer(request, learnware_id, 200)

    async def _upload_answer(self, request: Request, replaced: str | None, status: int) -> Response:
        """Takes an upload; the answer is its events where the client asks for them."""
        if wants_events(request):
            return EventAnswer(partial(self._take, request, replaced), "served")
        return _json(await self._take(request, replaced, no_note), status)

    async def _take(self, request: Request, replaced: str | None, note: Note) -> dict[str, Any]:
        with self._intake.line.place():
            async with uploaded(request, "upload.zip", self._max_upload_bytes, self.threads.writing) as path:
                note("received", {"bytes": (await asyncio.to_thread(path.stat)).st_size})
                record = await while_connected(request, self._intake.take(path, replaced, note))
        return await self._described(record)

    async def _remove(self, request: Request) -> Response:
        self._access.check_change(request)
        return await self._changed(partial(self._market.remove, _id_in(request)))

    async def _quarantine(self, request: Request) -> Response:
        self._access.check_change(request)
        too_large = f"The body is larger than {MAX_REASON_BYTES >> 10} KiB."
        body = await bounded_body(request, MAX_REASON_BYTES, too_large)
        try:
            reason = load_json(body, MAX_REASON_BYTES)["reason"]
        except (ValueError, KeyError, TypeError):
            reason = None
        if not isinstance(reason, str):
            raise InvalidInput('The body must be a JSON object with a text: {"reason": "…"}.')
        if fault := text_fault(reason, REASON):
            raise InvalidInput(f"The reason {fault}.")
        return await self._changed(partial(self._market.quarantine, _id_in(request), reason))

    async def _release(self, request: Request) -> Response:
        self._access.check_change(request)
        return await self._changed(partial(self._market.release, _id_in(request)))

    async def _changed(self, change: Callable[[], Record]) -> Response:
        return _json(await self._described(await in_thread(self.threads.changing, change)))

    async def _described(self, record: Record) -> dict[str, Any]:
        """Describes a change that is made: whether every replica has followed it, and if not, why."""
        pending = self._behind()
        if pending is not None:
            self.keeper.wake()
        else:
            sequence = await in_thread(self.threads.reading, lambda: self._market.sequence)
            if not await self._follow(sequence):
                pending = "not every router and engine replica has followed yet; they do so by themselves"
        await in_thread(self.threads.changing, self._collect_garbage)
        described = await in_thread(self.threads.reading, partial(describe_listed, self._market, record))
        served = pending is None and record.state is State.ACTIVE
        return described | {"served": served} | ({} if pending is None else {"pending": pending})

    def _behind(self) -> str | None:
        """Returns why routers and replicas cannot know of the last change yet; None if they can."""
        reason = self._market.unpublished
        if reason is None:
            return None
        return f"the change is kept, but the catalogue cannot be written ({reason}); it is tried again by itself"

    def _collect_garbage(self) -> None:
        try:
            self._market.collect_garbage()
        except LearnwareError as error:  # the change is made; what is left over goes after the next one
            logger.warning("files that nothing serves could not be removed: %s", error)


def _json(content: Any, status: int = 200) -> Response:
    """Answers with JSON, which no browser may take for a page: descriptions in it are strangers' text."""
    return JSONResponse(content, status, {"x-content-type-options": "nosniff"})


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


class MarketServer:
    """The application's one replica; it and the command line are the market's writers."""

    def __init__(
        self, folder: Path, needed: Requirements, access: Access, max_upload_bytes: int, on_loopback: bool
    ) -> None:
        if on_loopback:
            keep_grpc_on_loopback()
        checks = ChildChecks()
        checks.start()
        market = Market(folder, needed, lock_timeout_s=LOCK_S, checks=checks, lenient=True)
        self._market = market
        self._api = MarketAPI(market, access, max_upload_bytes, _probe_on_engine, _wait_for_replicas, checks.stop)

    async def __serve_build_asgi_app__(self) -> Starlette:
        self._api.keeper.start()
        return self._api.application()

    async def check_health(self) -> None:
        """Fails when the threads that do the market's work are stuck."""
        await check_threads(self._api.threads.reading, self._api.threads.changing)

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
        asked: Any = handle.probe.remote(
            entry.id,
            entry.version,
            entry.sha256,
            str(entry.folder),
            staged.card.domain,
            staged.card.examples,
            () if answers is None else answers.labels,
        )
        try:
            trial: Trial = await asyncio.wait_for(_result(asked), PROBE_TIMEOUT_S)
        except (TimeoutError, asyncio.CancelledError):
            asked.cancel()  # the replica unloads the learnware then
            raise
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
        max_ongoing_requests=ONGOING,
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
