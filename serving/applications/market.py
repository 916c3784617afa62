"""`/v1/learnwares`: the market over HTTP, a Ray Serve application of its own (`serving.applications.market_server`).

    GET    /v1/learnwares?q=&domain=&task=&language=&state=    list and search; state: active (default), all, …
    GET    /v1/learnwares/{id}                                 one, with its card
    POST   /v1/learnwares                                      submit a zip (the body)
    PUT    /v1/learnwares/{id}                                 replace it with a zip of a higher version
    PUT    /v1/learnwares/{id}?canary=0.05                     serve that to a share of its requests at first, as canary
    POST   /v1/learnwares/{id}/promote                         put its canary in its place
    POST   /v1/learnwares/{id}/roll-back                       {"reason": …}: serve its canary no more
    POST   /v1/learnwares/{id}/quarantine                      {"reason": …}: serve it no more, keep it
    POST   /v1/learnwares/{id}/release                         take it out of quarantine
    DELETE /v1/learnwares/{id}                                 remove it

An id `owner/name` stands in a path as it is, or with its slash as `%2F`; servers and proxies on the way make no
difference between the two, so neither does this application.

A submission is checked, tried on an engine replica (`serving.replica.trial`), measured there on requests that are not
its task (`serving.replica.off_task_meter`; what the submission says of that itself does not count), and only then
served; also as a canary. A submission that fails is put into quarantine with the reason. One that harms other requests
is served all the same to requests that name it; `auto` will rarely choose it. A change is answered once every router
and engine replica has made it (`"served": true`), or after some seconds in any case (`false`: they follow by
themselves). An upload with `Accept: text/event-stream` is answered with its progress
(`serving.applications.upload_events`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.applications.access import Access
from serving.applications.intake import Destination, Intake, MarketThreads, Probe
from serving.applications.market_keeper import MarketKeeper
from serving.applications.market_record import describe_listed, describe_whole
from serving.applications.routing import PrefixedApplication
from serving.applications.upload import bounded_body, uploaded
from serving.applications.upload_events import EventAnswer, Note, no_note, wants_events
from serving.applications.upload_line import in_thread, while_connected
from specs.canary import learnware_of, read_share
from specs.card_text import Kind, text_fault
from specs.errors import InvalidInput, LearnwareError
from specs.market.journal import Record, State
from specs.market.store import Market
from specs.untrusted import load_json

logger = logging.getLogger("ray.serve")

ROUTE_PREFIX = "/v1/learnwares"
"""Path below which the application answers."""

QUARANTINE = "quarantine"
"""Last part of the path that puts a learnware into quarantine; reserved among ids (`specs.card.RESERVED_NAMES`)."""
RELEASE = "release"
"""Last part of the path that takes a learnware out of quarantine; reserved among ids likewise."""
PROMOTE = "promote"
"""Last part of the path that puts a learnware's canary in its place; reserved among ids likewise."""
ROLL_BACK = "roll-back"
"""Last part of the path that takes a learnware's canary away; reserved among ids likewise."""

MAX_REASON_BYTES = 16 << 10
"""Size in bytes of the largest body with a reason."""
REASON = Kind(2_000, prose=True)
"""Bounds of the reason of a quarantine, a promotion or a roll-back."""

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
                Route(f"{one}/{PROMOTE}", self._promote, methods=["POST"]),
                Route(f"{one}/{ROLL_BACK}", self._roll_back, methods=["POST"]),
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
            canaries = {learnware_of(canary.id): canary for canary in self._market.canaries()}
            data = [describe_listed(self._market, record, canaries) for record in records]
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
        if "canary" in request.query_params:
            raise InvalidInput(
                f"A canary is a new version of a learnware that is served: PUT {ROUTE_PREFIX}/ID?canary=0.05."
            )
        return await self._upload_answer(request, Destination(), 201)

    async def _replace(self, request: Request) -> Response:
        self._access.check_change(request)
        learnware_id = _id_in(request)
        share = request.query_params.get("canary")
        destination = Destination(learnware_id, None if share is None else read_share(share))
        await in_thread(self.threads.reading, partial(self._market.active, learnware_id))
        return await self._upload_answer(request, destination, 200)

    async def _upload_answer(self, request: Request, destination: Destination, status: int) -> Response:
        """Takes an upload; the answer is its events where the client asks for them."""
        if wants_events(request):
            return EventAnswer(partial(self._take, request, destination), "served")
        return _json(await self._take(request, destination, no_note), status)

    async def _take(self, request: Request, destination: Destination, note: Note) -> dict[str, Any]:
        with self._intake.line.place():
            async with uploaded(request, "upload.zip", self._max_upload_bytes, self.threads.writing) as path:
                note("received", {"bytes": (await asyncio.to_thread(path.stat)).st_size})
                record = await while_connected(request, self._intake.take(path, destination, note))
        return await self._described(record)

    async def _remove(self, request: Request) -> Response:
        self._access.check_change(request)
        return await self._changed(partial(self._market.remove, _id_in(request)))

    async def _quarantine(self, request: Request) -> Response:
        self._access.check_change(request)
        reason = await _reason_in(request)
        return await self._changed(partial(self._market.quarantine, _id_in(request), reason))

    async def _release(self, request: Request) -> Response:
        self._access.check_change(request)
        return await self._changed(partial(self._market.release, _id_in(request)))

    async def _promote(self, request: Request) -> Response:
        self._access.check_change(request)
        reason = await _reason_in(request, needed=False)
        return await self._changed(partial(self._market.promote, _id_in(request), reason=reason or None))

    async def _roll_back(self, request: Request) -> Response:
        self._access.check_change(request)
        reason, learnware_id = await _reason_in(request), _id_in(request)

        def change() -> Record:
            self._market.roll_back(learnware_id, reason)
            return self._market.active(learnware_of(learnware_id))

        return await self._changed(change)

    async def _changed(self, change: Callable[[], Record]) -> Response:
        return _json(await self.change(change))

    async def change(self, change: Callable[[], Record]) -> dict[str, Any]:
        """Makes a change of the market, and describes the learnware that it returns once every replica has followed, or
        after some seconds."""
        return await self._described(await in_thread(self.threads.changing, change))

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


async def _reason_in(request: Request, *, needed: bool = True) -> str:
    """Returns the reason in a request's body; an empty one where the body is empty and no reason is `needed`.

    Raises:
        InvalidInput: there is none, or it is no text of people's.
        TooLarge: the body is larger than a reason.
    """
    too_large = f"The body is larger than {MAX_REASON_BYTES >> 10} KiB."
    body = await bounded_body(request, MAX_REASON_BYTES, too_large)
    if not body and not needed:
        return ""
    try:
        reason = load_json(body, MAX_REASON_BYTES)["reason"]
    except (ValueError, KeyError, TypeError):
        reason = None
    if not isinstance(reason, str):
        raise InvalidInput('The body must be a JSON object with a text: {"reason": "…"}.')
    if fault := text_fault(reason, REASON):
        raise InvalidInput(f"The reason {fault}.")
    return reason


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
    if rest in ([QUARANTINE], [RELEASE], [PROMOTE], [ROLL_BACK]):
        raise HTTPException(405)
    return learnware_id
