"""`/v1/decisions`: the log of decisions over HTTP, a Ray Serve application of its own, and its only writer.

    GET  /v1/decisions                 records as JSON lines, the newest first, filtered by limit, before, after,
                                       tenant, learnware, reason, status, task and id
    GET  /v1/decisions/{request id}    one record
    POST /v1/decisions/{id}/replay     the choice made again over today's market, and why it differs
    POST /v1/decisions/feedback        how good an answer was; the edge sends POST /v1/feedback here
    GET  /v1/decisions/evaluations     how models compare (`serving.applications.evaluations`)

A key sees its own tenant's records, those of others are not there for it; the admin key sees all. Routers and engine
replicas send their halves of records, and comparisons, to `DecisionsServer.add` (`serving.decisions.recorder`).
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.deployment import Application
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.ray_internals import keep_grpc_on_loopback
from serving.access.tenant import Tenant
from serving.applications.access import Access, configured_access
from serving.applications.evaluations import Evaluation, Evaluations, configured_evaluation
from serving.applications.liveness import HEALTH_OPTIONS, check_threads
from serving.applications.one_router import ask_a_router
from serving.applications.right_answers import RightAnswers, ask_an_engine
from serving.applications.routing import PrefixedApplication
from serving.applications.upload import bounded_body
from serving.applications.upload_line import in_thread
from serving.config import Config
from serving.config_insight import DecisionSettings
from serving.decisions.outlets import JsonLines, OtlpLogs, Outlet, Outlets
from serving.decisions.queries import (
    FEEDBACK_BYTES,
    checked_query,
    feedback_of,
    filters_of,
    request_id_of,
    unknown_decision,
)
from serving.decisions.redaction import Redactor
from serving.decisions.store import DecisionStore
from serving.feedback.teacher import Teacher
from serving.names import DECISIONS
from serving.paths import cache_folder
from specs.errors import Forbidden, NotReady, NotReplayable

logger = logging.getLogger("ray.serve")

ROUTE_PREFIX = "/v1/decisions"
"""Path below which the application answers."""
FILE = "decisions.sqlite"
"""Name of the log's file where the configuration names none."""
EMIT_EVERY_S = 0.5
"""Seconds between two looks for records to hand on."""
REPLAY_S = 5.0
"""Seconds that a router may take for a choice that costs it about a millisecond."""
RECORD_S = 2.0
"""Seconds that feedback waits for its record, which comes up to a second after the answer's end."""
LOOK_AGAIN_S = 0.1
MOST_WAITING = 64
"""The most pieces of feedback that wait for their record; further ones are answered at once."""
LEARN_EVERY_S = 60.0
"""Seconds between two looks for feedback to learn from (`feedback.learn`)."""
ONGOING = 1000
"""The most requests that Ray hands to the application at a time."""

Replay = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Has a router make a recorded choice again (`router.deployment.LearnwareRouter.replay`)."""


class DecisionsAPI:
    """The routes of `/v1/decisions`. It knows nothing of Ray: the function that asks a router is passed in."""

    def __init__(
        self,
        store: DecisionStore,
        access: Access,
        replay: Replay,
        record_s: float = RECORD_S,
        evaluations: Evaluations | None = None,
    ) -> None:
        self._store = store
        self._evaluations = evaluations
        self._access = access
        self._replay = replay
        self._record_s = record_s
        self._waiting = 0
        self.reading = ThreadPoolExecutor(2, thread_name_prefix="decisions-read")

    def application(self) -> PrefixedApplication:
        """Builds the ASGI application."""
        return PrefixedApplication(
            [
                Route(ROUTE_PREFIX, self._list, methods=["GET"]),
                *([] if self._evaluations is None else self._evaluations.routes(self.reading)),
                Route(f"{ROUTE_PREFIX}/feedback", self._feedback, methods=["POST"]),
                Route(f"{ROUTE_PREFIX}/{{request_id}}", self._show, methods=["GET"]),
                Route(f"{ROUTE_PREFIX}/{{request_id}}/replay", self._replayed, methods=["POST"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        filters = filters_of(request.query_params.multi_items())
        filters = filters._replace(tenant=_whose(tenant, filters.tenant))

        def lines() -> str:
            return "".join(json.dumps(record) + "\n" for record in self._store.find(filters))

        return _answer(await in_thread(self.reading, lines), "application/x-ndjson")

    async def _show(self, request: Request) -> Response:
        return _answer(json.dumps(await self._found(request)), "application/json")

    async def _replayed(self, request: Request) -> Response:
        record = await self._found(request)
        choice = record["choice"]
        if choice is None:
            raise NotReplayable(
                "Nothing was chosen for this request (it named its model, or no router decided), or the router's half "
                "of its record was lost."
            )
        again = await self._replay({"choice": choice, "vectors": record["vectors"], "model": record["model"]})
        if "why_not" in again:
            raise NotReplayable(again["why_not"])
        return _answer(json.dumps({"id": record["id"], **again}), "application/json")

    async def _feedback(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        whose = _whose(tenant, checked_query(request.query_params.multi_items(), ("tenant",)).get("tenant"))
        too_large = f"A body with feedback has at most {FEEDBACK_BYTES >> 10} KiB."
        request_id, piece = feedback_of(await bounded_body(request, FEEDBACK_BYTES, too_large))
        give = partial(self._store.feedback, whose, request_id, piece, tenant.name)
        record = await in_thread(self.reading, give)
        if record is None and await self._comes(whose, request_id):
            record = await in_thread(self.reading, give)
        if record is None:
            raise unknown_decision(request_id)
        if self._evaluations is not None and "answer" in piece:
            await self._evaluations.reference(record["tenant"], request_id, piece["answer"])
        kept = {
            "id": request_id,
            "object": "feedback",
            "learnware": record["learnware"],
            "feedback": record["feedback"],
        }
        return _answer(json.dumps(kept), "application/json", 201)

    async def _found(self, request: Request) -> dict[str, Any]:
        """Returns the record that a path names.

        Raises:
            UnknownDecision: there is none, or it is another tenant's.
        """
        tenant = self._access.check_read(request)
        whose = _whose(tenant, checked_query(request.query_params.multi_items(), ("tenant",)).get("tenant"))
        request_id = request_id_of(request.path_params["request_id"])
        found = await in_thread(self.reading, partial(self._store.get, whose, request_id))
        if found is None:
            raise unknown_decision(request_id)
        return found

    async def _comes(self, whose: str | None, request_id: str) -> bool:
        """Waits a moment for a record that may be on its way; returns whether it is there."""
        if self._waiting >= MOST_WAITING:
            return False
        self._waiting += 1
        try:
            for _ in range(round(self._record_s / LOOK_AGAIN_S)):
                await asyncio.sleep(LOOK_AGAIN_S)
                if await in_thread(self.reading, partial(self._store.get, whose, request_id)) is not None:
                    return True
            return False
        finally:
            self._waiting -= 1


def _whose(tenant: Tenant, asked: str | None) -> str | None:
    """Returns the tenant whose records a request is about; None for all.

    Raises:
        Forbidden: it asks for another one's.
    """
    if tenant.admin:
        return asked
    if asked not in (None, tenant.name):
        raise Forbidden("A key sees its own decisions; those of other tenants need the admin key.")
    return tenant.name


def _answer(text: str, media_type: str, status: int = 200) -> Response:
    """Answers with JSON in ASCII, whatever clients wrote, which no browser may take for a page or keep."""
    return Response(
        text, status, {"x-content-type-options": "nosniff", "cache-control": "no-store"}, media_type=media_type
    )


class DecisionsServer:
    """The application's one replica."""

    def __init__(
        self,
        settings: DecisionSettings,
        path: Path,
        access: Access,
        on_loopback: bool,
        lines: str | None,
        teacher: Teacher | None = None,
        evaluation: Evaluation | None = None,
    ) -> None:
        """Opens the store. `lines` is the launcher's Unix socket for JSON lines; None: standard output. `teacher`
        learns from feedback; None: nothing does. `evaluation` says how answers are compared."""
        if on_loopback:
            keep_grpc_on_loopback()
        redactor = Redactor(settings.redact)
        self._store = DecisionStore(
            path,
            settings.max_records,
            settings.keep_days,
            vectors=settings.vectors,
            prompts=settings.prompts,
            prompt_keep_days=settings.prompt_keep_days,
            redactor=redactor,
        )
        outlets: list[Outlet] = [JsonLines(lines)] if settings.stdout else []
        if settings.otlp_endpoint is not None:
            outlets.append(OtlpLogs(settings.otlp_endpoint))
        self._outlets = Outlets(self._store, outlets)
        self._emits = bool(outlets)
        self._writing: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="decisions-write")
        table = self._store.comparisons
        self._evaluations = Evaluations(table, access, evaluation or Evaluation(), redactor, self._write)
        self._api = DecisionsAPI(self._store, access, _ask_a_router, evaluations=self._evaluations)
        self._teacher = teacher
        self._keeps_prompts = settings.prompts
        self._learning = ThreadPoolExecutor(1, thread_name_prefix="decisions-learn")

    async def __serve_build_asgi_app__(self) -> Starlette:
        if self._emits:
            self._emitting = asyncio.create_task(self._emit())
        if self._teacher is not None:
            self._lessons = asyncio.create_task(self._learn(self._teacher))
            if self._keeps_prompts:
                self._right_answers = asyncio.create_task(RightAnswers(self._store, ask_an_engine).run())
        await self._evaluations.start()
        return self._api.application()

    async def add(self, content: bytes) -> int:
        """Stores halves of records and comparisons, JSON lines; returns how many could not be."""

        def add() -> tuple[int, list[dict[str, Any]]]:
            parts = [json.loads(line) for line in content.splitlines()]
            halves = [part for part in parts if "sides" not in part]
            lost = self._store.add(halves)
            self._outlets.note(halves)
            return lost, [part for part in parts if "sides" in part]

        lost, compared = await in_thread(self._pool, add)
        return lost + await self._evaluations.take(compared)

    async def _write(self, work: Callable[[], Any]) -> Any:
        return await in_thread(self._pool, work)

    async def check_health(self) -> None:
        """Fails when the threads that do the store's work are stuck."""
        await check_threads(self._api.reading, self._pool)

    @property
    def _pool(self) -> ThreadPoolExecutor:
        if self._writing is None:
            raise NotReady("The log of decisions is being closed. Try again.")
        return self._writing

    async def _emit(self) -> None:
        while True:
            await asyncio.sleep(EMIT_EVERY_S)
            try:
                await in_thread(self._pool, self._outlets.emit)
            except Exception:
                logger.exception("records could not be handed on")

    async def _learn(self, teacher: Teacher) -> None:
        while True:
            await asyncio.sleep(LEARN_EVERY_S)
            try:
                found = await in_thread(self._learning, lambda: teacher.learn(self._store.feedback_rows()))
                if found is not None:
                    logger.info("evidence %d is published", found.number)
            except Exception:
                logger.exception("nothing could be learnt from feedback; the evidence there is holds")

    def __del__(self) -> None:  # Ray Serve calls it when it stops the replica
        if (learning := getattr(self, "_learning", None)) is not None:
            learning.shutdown(wait=False, cancel_futures=True)
        writing, self._writing = getattr(self, "_writing", None), None
        if writing is not None:
            writing.submit(self._outlets.close)
            writing.shutdown()
            self._store.close()


async def _ask_a_router(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return await ask_a_router("replay", dict(recorded), REPLAY_S)


def decisions_path(config: Config, market: Path | None) -> Path:
    """Returns the log's file: the configured one, else one in the market's folder, else (`market` is None) one in the
    cache folder."""
    given = config.decisions.path
    return (market or cache_folder()) / FILE if given is None else Path(given).expanduser()


def decisions_application(
    config: Config, market: Path | None, *, on_loopback: bool, lines: str | None = None
) -> Application:
    """Builds the application to run with `route_prefix=ROUTE_PREFIX` beside the one whose decisions it keeps.

    Args:
        config: a checked configuration.
        market: the market's folder, or None.
        on_loopback: the stack is this machine's alone.
        lines: the Unix socket on which a launcher takes JSON lines (`decisions.stdout`); None: standard output.
    """
    deployment = serve.deployment(
        serve.ingress()(DecisionsServer),
        name=DECISIONS,
        graceful_shutdown_wait_loop_s=0.1,
        **HEALTH_OPTIONS,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0},
    )
    teacher = None
    if config.feedback.learn and market is not None:
        teacher = Teacher(market, config.feedback, config.router.selection)
    built: Application = deployment.bind(
        config.decisions,
        decisions_path(config, market),
        configured_access(config),
        on_loopback,
        lines,
        teacher,
        configured_evaluation(config, market=market is not None),
    )
    return built
