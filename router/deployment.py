"""The router as a Ray Serve deployment: HAProxy asks it, for each request, which learnware and which replica.

The contract with HAProxy (Ray 2.60, `ingress_request_router.lua.tmpl`): `POST /internal/route` with the client's body
answers 200 with a flat object, `replica_id` and the headers to set. Anything else counts as a failure of the router, so
errors inside become a choice of the base model, with the reason in the signed header.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.choice import (
    CHOICE_HEADER,
    NAMED,
    NO_LEARNWARE,
    ROUTER_DEADLINE,
    ROUTER_ERROR,
    UNKNOWN_TASK,
    RoutedChoice,
    encode_choice,
)
from router.conversation import Conversations, ConversationSettings, by_readings
from router.following import Follower
from router.joint import JointChoice
from router.metrics import RouterMetrics
from router.placement import PlacementSettings
from router.ray_seam import EngineReplicas, choose_replica_id, initialise, keep_grpc_on_loopback, replica_line
from router.request import DecodeTokens, RoutedRequest, read_request
from router.selection import Choice
from router.settings import SelectionSettings
from router.snapshot import Snapshot, SnapshotBuilder, serve_beside_changes
from router.wrappers import OwnWords, RequestSettings
from specs.market.catalogue import Catalogue, current_catalogue
from specs.task import TASK_PREFIX
from specs.task_store import TaskStore

logger = logging.getLogger("ray.serve")

DECISION_THREADS = 2
"""Threads that decide. Two, so that one slow decision (a long text) does not push its neighbours past their deadline;
more would only share the same core, since encoding and scoring hold it."""

REPLICA_DEADLINE_S = 2.0
"""How long to wait for an engine replica to be known. Past it HAProxy balances the request itself; it comes without a
choice."""


class RouterOptions(BaseModel):
    """What a router replica is started with; every field is read once, at start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learnwares: Path
    """A folder of learnwares that stay as they are; read where there is no market."""
    market: Path | None
    base_model: Path | None
    auto_names: tuple[str, ...]
    deadline_ms: float
    selection: SelectionSettings
    conversation: ConversationSettings
    request: RequestSettings = RequestSettings()
    placement: PlacementSettings = PlacementSettings()
    on_loopback: bool


class Decision(NamedTuple):
    """A choice, the router's own time for it, and whether the request asked for one."""

    choice: Choice
    milliseconds: float
    routed: bool


class LearnwareRouter:
    """One router replica. Holds the learnwares' specifications, never their weights.

    Of a change in the market a request sees nothing or all: the snapshot is made in a thread and swapped in. Until an
    engine replica has made the same change, it answers a choice that it does not know from the base model.
    """

    def __init__(self, server: DeploymentHandle[Any], options: RouterOptions, secret: bytes) -> None:
        if options.on_loopback:
            keep_grpc_on_loopback()
        self._server = server
        self._options = options
        self._secret = secret
        self._deadline_s = options.deadline_ms / 1000
        self._builder = SnapshotBuilder(options.selection)
        catalogue = current_catalogue(options.market, options.learnwares)
        self._builder.build(catalogue)
        serve_beside_changes()
        self._rebuilding: asyncio.Task[None] | None = None
        self._sequence = catalogue.sequence
        self._tasks = None if options.market is None else TaskStore(options.market)
        self._decode_tokens = _token_decoder(options.base_model)
        self._words = OwnWords(options.request)
        self._conversations: tuple[Snapshot, Conversations] | None = None
        self._threads = ThreadPoolExecutor(DECISION_THREADS, thread_name_prefix="decide")
        self._registry = CollectorRegistry()
        self._metrics = RouterMetrics(self._registry)
        initialise(server)
        self._replicas = EngineReplicas(server)
        self._joint = JointChoice(self._replicas, options.selection.resident_margin, options.placement)

    async def __serve_build_asgi_app__(self) -> Starlette:
        if self._options.market is not None:
            self._follower = Follower(self._options.market, self._follow, self._sequence)
            self._follower.start()
        return Starlette(routes=[Route("/internal/route", self._route, methods=["POST"])])

    async def _follow(self, catalogue: Catalogue) -> None:
        await asyncio.to_thread(self._builder.build, catalogue)
        if self._builder.rebuild_due and (self._rebuilding is None or self._rebuilding.done()):
            self._rebuilding = asyncio.create_task(self._rebuild())

    async def _rebuild(self) -> None:
        try:
            await asyncio.to_thread(self._builder.rebuild)
        except Exception:
            logger.exception("the selection could not be fitted anew; it goes on with the metric it has")

    @property
    def _snapshot(self) -> Snapshot | None:
        return self._builder.snapshot

    async def market_reached(self, sequence: int) -> int:
        """Returns when the market's change number `sequence` is in effect here."""
        return await self._follower.reached(sequence)

    async def _route(self, request: Request) -> JSONResponse:
        body = await request.body()
        decision = await self._decide_in_time(body)
        choice, address = self._place(decision.choice)
        answer = address or await self._any_replica()
        if decision.routed:
            self._metrics.observe(choice, decision.milliseconds / 1000)
            header = RoutedChoice(choice.learnware_id, choice.reason, choice.score, decision.milliseconds)
            answer["request_headers"] = {CHOICE_HEADER: encode_choice(header, self._secret)}
        return JSONResponse(answer)

    def _place(self, choice: Choice) -> tuple[Choice, dict[str, Any]]:
        """The joint choice and its replica's address: empty when none is known, or any will do. Never raises."""
        try:
            placed_choice, placed = self._joint.decide(choice, self._adapters())
            if placed is None:
                return choice, {}
            address = self._replicas.address(placed.replica)
        except Exception:
            logger.exception("a choice could not be placed; any replica gets this request")
            return choice, {}
        self._metrics.observe_placement(placed)
        return placed_choice, address

    def _adapters(self) -> Mapping[str, str]:
        snapshot = self._snapshot
        return {} if snapshot is None else snapshot.adapters

    async def _any_replica(self) -> dict[str, Any]:
        """Where the request goes; empty when no engine replica is known in time, and HAProxy then balances by
        itself."""
        try:
            async with asyncio.timeout(REPLICA_DEADLINE_S):
                return await choose_replica_id(self._server)
        except Exception:
            logger.exception("no engine replica could be chosen; the edge balances this request")
            return {}

    async def _decide_in_time(self, body: bytes) -> Decision:
        """The decision, or the base model with the reason when it fails or takes longer than the deadline. Never
        raises."""
        started = time.perf_counter()
        try:
            deciding = asyncio.get_running_loop().run_in_executor(self._threads, self._decide, body)
            choice, routed = await asyncio.wait_for(deciding, self._deadline_s)
        except TimeoutError:
            choice, routed = _base(ROUTER_DEADLINE), True
        except Exception:
            logger.exception("the router failed on a request; the base model answers it")
            choice, routed = _base(ROUTER_ERROR), True
        return Decision(choice, (time.perf_counter() - started) * 1000, routed)

    def _decide(self, body: bytes) -> tuple[Choice, bool]:
        """The choice, and whether the request asks for one. A model that could not be read may be `auto`: the replica,
        which has the whole body, uses the choice only if it is."""
        return self._decide_request(self._read(body))

    def _read(self, body: bytes) -> RoutedRequest:
        return read_request(body, self._decode_tokens, self._words)

    def _decide_request(self, request: RoutedRequest) -> tuple[Choice, bool]:
        if request.model is not None and request.model.startswith(TASK_PREFIX):
            return self._choose_for_task(request.model), True
        if request.model is not None and request.model not in self._options.auto_names:
            return _base(NAMED)._replace(learnware_id=self._served(request.model)), False
        snapshot = self._snapshot  # one for the whole decision
        if snapshot is None:
            return _base(NO_LEARNWARE), True
        return self._conversations_over(snapshot).choose_for_all(request.prompts), True

    def _conversations_over(self, snapshot: Snapshot) -> Conversations:
        """What remembers turns' choices over this state of the market: it ends with it."""
        held = self._conversations
        if held is None or held[0] is not snapshot:
            held = (
                snapshot,
                Conversations(
                    by_readings(snapshot.selector.choose),
                    snapshot.follow_ups.kind,
                    snapshot.selector.answers_in_sentences,
                    self._words.is_interface_task,
                    self._options.conversation,
                ),
            )
            self._conversations = held  # two threads may both make one; either will do
        return held[1]

    def _served(self, model: str) -> str | None:
        """The model, if it is a learnware that is served."""
        return model if model in self._adapters() else None

    def _choose_for_task(self, name: str) -> Choice:
        task = None if self._tasks is None else self._tasks.find(name)
        if task is None:
            return _base(UNKNOWN_TASK)
        snapshot = self._snapshot
        return _base(NO_LEARNWARE) if snapshot is None else snapshot.selector.choose_task(task.mean)

    async def explain(self, body: bytes) -> dict[str, Any]:
        """The choice for a request body, with ranked candidates, as `POST /v1/route` shows it. Generates nothing and
        counts nothing."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        request = await loop.run_in_executor(self._threads, self._read, body)
        choice, _ = await loop.run_in_executor(self._threads, self._decide_request, request)
        choice, explained = self._joint.explain(choice, self._adapters())
        return {
            "model": request.model,
            "learnware": choice.learnware_id,
            "reason": choice.reason,
            "score": round(choice.score, 6),
            "confidence": round(choice.confidence, 6),
            **explained,
            "prompts": len(request.prompts),
            "turns": sum(len(prompt.turns) for prompt in request.prompts),
            "route_ms": round((time.perf_counter() - started) * 1000, 3),
        }

    async def metrics_text(self) -> str:
        """This replica's metrics as Prometheus text, after a comment that says which replica it is."""
        return replica_line() + generate_latest(self._registry).decode()


def _base(reason: str) -> Choice:
    return Choice(None, 0.0, 0.0, reason, ())


def _token_decoder(base_model: Path | None) -> DecodeTokens | None:
    """Decodes prompts given as token ids with the base model's own tokenizer; None when its file is not at hand."""
    file = base_model / "tokenizer.json" if base_model else None
    if file is None or not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))

    def decode(tokens: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    return decode
