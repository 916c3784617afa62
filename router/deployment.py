"""The router as a Ray Serve deployment: HAProxy asks it, for each request, which learnware and which replica.

The contract with HAProxy (Ray 2.60, `ingress_request_router.lua.tmpl`, edited by `serving.edge.router_rules`):
`POST /internal/route` with the client's body answers 200 with the address of an engine replica (`host`, `port`,
`replica_id`; empty where HAProxy may take any) and, for a request that asks for a choice, `request_headers` with the
signed choice; or 429 with `Retry-After`, which HAProxy passes on. Anything else counts as a failure of the router, so
errors inside become a choice of the base model, with the reason in the signed header.

A request that names a model needs no decision: it is read, placed and let through, however many wait for theirs.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from router.canaries import with_canary
from router.choice import (
    CHOICE_HEADER,
    NAMED,
    NO_LEARNWARE,
    ROUTER_DEADLINE,
    ROUTER_ERROR,
    ROUTER_OVERLOAD,
    UNKNOWN_TASK,
    RoutedChoice,
    encode_choice,
)
from router.conversation import Conversations, best_reading, by_readings
from router.decision_record import ChoiceLog
from router.decisions import Check, DeadlinePassed, DecisionQueue
from router.evidence_follower import EvidenceFollower
from router.explanation import DIGITS, describe
from router.exploring import explored
from router.metrics import RouterMetrics
from router.options import RouterOptions
from router.placer import JointChoice
from router.ray_internals import EngineReplicas, choose_replica_id, initialise, keep_grpc_on_loopback, replica_line
from router.replay import CannotReplay, compared, replayed
from router.request import RoutedRequest, read_request
from router.selection import Choice, Selector, next_best
from router.snapshot import Snapshot, SnapshotBuilder, serve_beside_changes
from router.token_ids import token_decoder
from router.watch import NO_WATCH
from router.wrappers import OwnWords
from specs.encoding.ask import split_prompt
from specs.errors import Overloaded
from specs.market.catalogue import Catalogue
from specs.market.follower import Follower
from specs.market.startup import current_catalogue
from specs.task import TASK_PREFIX
from specs.task_store import TaskStore

logger = logging.getLogger("ray.serve")

DECISION_THREADS = 2
"""Number of threads that decide. Two, so that one slow decision (a long text) does not hold up all that wait; more
would only share the same core, since encoding and scoring occupy it, and make each decision longer."""

READ_AT_ONCE_BYTES = 16_384
"""The largest body, in bytes, that is read in the event loop, in some 50 µs; nearly all are. A longer one, up to some
milliseconds, is read in a thread beside those that decide."""

ANSWER_WITHIN_S = 1.9
"""Seconds after a request's arrival by which the router answers. HAProxy waits 2 s (`serving.edge.router_rules`);
what waiting and decision leave of this time is for an engine replica to become known, and past it HAProxy balances the
request itself."""


class Decision(NamedTuple):
    """A choice, and the seconds that the request had waited before it was begun."""

    choice: Choice
    waited_s: float


class LearnwareRouter:
    """One router replica. Holds the learnwares' specifications, never their weights.

    A request sees a market change completely or not at all: the snapshot is made in a thread and swapped in. Until an
    engine replica has made the same change, it answers a choice that it does not know from the base model.
    """

    def __init__(self, server: DeploymentHandle[Any], options: RouterOptions, secret: bytes) -> None:
        if options.on_loopback:
            keep_grpc_on_loopback()
        self._server = server
        self._options = options
        self._watch = NO_WATCH if options.watch is None else options.watch()
        self._secret = secret
        self._builder = SnapshotBuilder(options.selection)
        catalogue = current_catalogue(options.market, options.learnwares, options.requirements)
        self._builder.build(catalogue)
        serve_beside_changes()
        self._rebuilding: asyncio.Task[None] | None = None
        self._sequence = catalogue.sequence
        self._tasks = None if options.market is None else TaskStore(options.market)
        self._decode_tokens = token_decoder(options.base_model)
        self._words = OwnWords(options.request)
        self._conversations: tuple[Snapshot, Conversations] | None = None
        self._decisions = DecisionQueue(DECISION_THREADS, options.max_wait_ms / 1000, options.deadline_ms / 1000)
        self._registry = CollectorRegistry()
        self._metrics = RouterMetrics(self._registry)
        self._metrics.watch_waiting(lambda: self._decisions.waiting)
        self._log = ChoiceLog(None if options.record is None else options.record(self._registry))
        initialise(server)
        self._replicas = EngineReplicas(server)
        self._joint = JointChoice(self._replicas, options.selection.resident_margin, options.placement)

    async def __serve_build_asgi_app__(self) -> Starlette:
        if self._options.market is not None:
            self._follower = Follower(self._options.market, self._follow, self._sequence)
            self._follower.start()
            if self._options.learns:
                self._evidence = EvidenceFollower(self._options.market, self._builder.teach)
                self._evidence.start()
            self._metrics.watch_market(lambda: self._follower.sequence, lambda: self._follower.fault is not None)
        self._log.start()
        routes = [Route("/internal/route", self._route, methods=["POST"])]
        return Starlette(routes=routes, middleware=[Middleware(self._watch.around)])

    async def __del__(self) -> None:  # Ray Serve awaits it when it stops the replica
        if (log := getattr(self, "_log", None)) is not None:
            await log.close()

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
        """Waits until the market's change number `sequence` is in effect here, and returns the number that is."""
        return await self._follower.reached(sequence)

    async def _route(self, request: Request) -> JSONResponse:
        body = await request.body()
        arrived = time.perf_counter()
        read = await self._read(body)
        if not self._asks(read):
            return JSONResponse(await self._address(self._named(read), arrived))
        begun = time.perf_counter()
        try:
            decision = await self._decide_in_time(read)
        except Overloaded as refusal:
            self._metrics.observe_overload(self._options.on_overload)
            if self._options.on_overload == "refuse" and read.model is not None:
                return JSONResponse({}, refusal.status, {"retry-after": str(refusal.retry_after_s)})
            # A model that could not be read may be a named one: the replica, which has the whole body, refuses.
            decision = Decision(_base(ROUTER_OVERLOAD), time.perf_counter() - begun)
        choice, answer = self._place(self._drawn(decision.choice, request))
        self._watch.decided(choice, decision.waited_s)
        seconds = time.perf_counter() - arrived
        self._metrics.observe(choice, seconds - decision.waited_s)
        after, decision_id = next_best(choice), self._log.note(choice, read, self._snapshot, self._market)
        header = RoutedChoice(choice.learnware_id, choice.reason, choice.score, seconds * 1000, after, decision_id)
        answer = answer or await self._any_replica(arrived)
        return JSONResponse({**answer, "request_headers": {CHOICE_HEADER: encode_choice(header, self._secret)}})

    @property
    def _market(self) -> int:
        """Number of the market's change that is in effect."""
        return self._sequence if self._options.market is None else self._follower.sequence

    def _drawn(self, choice: Choice, request: Request) -> Choice:
        """Returns the choice for a request that may explore, or be a canary's, which its id decides."""
        request_id = request.headers.get("x-request-id")
        snapshot = self._snapshot
        if request_id is None or snapshot is None:
            return choice
        if self._options.explore and snapshot.selector is not None:
            choice = explored(choice, request_id, self._options.explore, snapshot.selector.evidence)
        return with_canary(choice, request_id, snapshot.canaries)

    async def _address(self, choice: Choice, arrived: float) -> dict[str, Any]:
        return self._place(choice)[1] or await self._any_replica(arrived)

    async def _read(self, body: bytes) -> RoutedRequest:
        """Reads a body. Never raises: a body that cannot be read may ask for a choice, and gets the base model's."""
        try:
            if len(body) <= READ_AT_ONCE_BYTES:
                return read_request(body, self._decode_tokens, self._words)
            return await asyncio.to_thread(read_request, body, self._decode_tokens, self._words)
        except Exception:
            logger.exception("the router could not read a request")
            return RoutedRequest(None, (), False)

    def _asks(self, request: RoutedRequest) -> bool:
        """Whether the request asks for a choice. A model that could not be read may be `auto`: the replica, which has
        the whole body, uses the choice only if it is."""
        if request.model is None:
            return not request.whole
        return request.model in self._options.auto_names or _for_task(request)

    def _named(self, request: RoutedRequest) -> Choice:
        """Returns the choice by which a request that asks for none is placed."""
        served = request.model if request.model in self._adapters() else None
        return _base(NAMED)._replace(learnware_id=served)

    def _place(self, choice: Choice) -> tuple[Choice, dict[str, Any]]:
        """Returns the joint choice and its replica's address, which is empty when none is known, or any will do. Never
        raises."""
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

    async def _any_replica(self, arrived: float) -> dict[str, Any]:
        """Returns the address that Ray's own balancing picks; empty when no engine replica is known in time, and
        HAProxy then balances by itself."""
        try:
            async with asyncio.timeout(max(arrived + ANSWER_WITHIN_S - time.perf_counter(), 0)):
                return await choose_replica_id(self._server)
        except Exception:
            logger.exception("no engine replica could be chosen; the edge balances this request")
            return {}

    async def _decide_in_time(self, request: RoutedRequest) -> Decision:
        """Returns the decision, or the base model with the reason when it fails or takes longer than the deadline.

        Raises:
            Overloaded: it could not begin in time.
        """
        try:
            choice, waited_s = await self._decisions.decide(lambda check: self._decide(request, check))
        except DeadlinePassed as passed:
            choice, waited_s = _base(ROUTER_DEADLINE), passed.waited_s
        except Overloaded:
            raise
        except Exception:
            logger.exception("the router failed on a request; the base model answers it")
            return Decision(_base(ROUTER_ERROR), 0.0)
        self._metrics.observe_wait(waited_s)
        return Decision(choice, waited_s)

    def _decide(self, request: RoutedRequest, check: Check) -> Choice:
        """Returns the choice for a request that asks for one; `check` ends it between turns once nobody waits for
        it."""
        if request.model is not None and _for_task(request):
            return self._choose_for_task(request.model)
        snapshot = self._snapshot  # one for the whole decision
        if snapshot is None or snapshot.selector is None:
            return _base(NO_LEARNWARE)
        return self._conversations_over(snapshot, snapshot.selector).choose_for_all(request.prompts, check)

    def _decide_and_read(self, request: RoutedRequest, check: Check) -> tuple[Choice, tuple[str, ...]]:
        """Returns the choice, and the ask of the first prompt's deciding turn: its sentences, none where no text
        decides."""
        choice = self._decide(request, check)
        snapshot = self._snapshot
        selector = None if snapshot is None else snapshot.selector
        asked = not _for_task(request) and any(prompt.turns for prompt in request.prompts)
        if snapshot is None or selector is None or not asked:
            return choice, ()
        first = next(prompt for prompt in request.prompts if prompt.turns)
        turn = self._conversations_over(snapshot, selector).deciding_turn(first, choice)
        return choice, split_prompt(best_reading(selector.choose, turn)[0]).ask

    def _conversations_over(self, snapshot: Snapshot, selector: Selector) -> Conversations:
        """Returns the memory of turns' choices over this state of the market, which ends with it."""
        held = self._conversations
        if held is None or held[0] is not snapshot:
            conversations = Conversations(
                by_readings(self._log.reading(selector.choose)),
                snapshot.follow_ups.kind,
                selector.answers_in_sentences,
                self._words.is_interface_task,
                self._options.conversation,
            )
            held = (snapshot, conversations)
            self._conversations = held  # two threads may both make one; either will do
        return held[1]

    def _choose_for_task(self, name: str) -> Choice:
        task = None if self._tasks is None else self._tasks.find(name)
        if task is None:
            return _base(UNKNOWN_TASK)
        snapshot = self._snapshot
        selector = None if snapshot is None else snapshot.selector
        return _base(NO_LEARNWARE) if selector is None else selector.choose_task(task.mean, task.noise)

    async def explain(self, body: bytes) -> dict[str, Any]:
        """Returns the choice for a request body and the figures that it was made by, as `POST /v1/route` shows them.
        Generates nothing and counts nothing. A body without a model is explained as if it asked for a choice.

        Raises:
            Overloaded: the decision could not begin in time.
        """
        started = time.perf_counter()
        request = await self._read(body)
        choice, ask = self._named(request), tuple[str, ...]()
        if self._asks(request) or request.model is None:
            try:
                (choice, ask), _ = await self._decisions.decide(lambda check: self._decide_and_read(request, check))
            except DeadlinePassed:
                choice = _base(ROUTER_DEADLINE)
        choice, explained = self._joint.explain(choice, self._adapters())
        return {
            "model": request.model,
            "learnware": choice.learnware_id,
            "reason": choice.reason,
            "score": round(choice.score, DIGITS),
            "confidence": round(choice.confidence, DIGITS),
            **describe(choice, ask),
            **explained,
            "prompts": len(request.prompts),
            "turns": sum(len(prompt.turns) for prompt in request.prompts),
            "route_ms": round((time.perf_counter() - started) * 1000, 3),
        }

    async def replay(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Makes a recorded choice again, over the market of today (`router.replay.compared`).

        Args:
            recorded: a record's `choice`, `vectors` and `model`.

        Returns:
            The comparison, or `{"why_not": …}` where it cannot be made.

        Raises:
            Overloaded: the decision could not begin in time.
        """
        try:
            choice, _ = await self._decisions.decide(
                lambda _: replayed(recorded, self._snapshot, self._choose_for_task)
            )
        except CannotReplay as reason:
            return {"why_not": str(reason)}
        except DeadlinePassed:
            return {"why_not": "The decision took longer than router.deadline_ms. Try again."}
        return compared(recorded["choice"], choice, self._market, self._adapters())

    async def metrics_text(self) -> str:
        """Returns this replica's metrics as Prometheus text, after a comment that says which replica it is."""
        return replica_line() + generate_latest(self._registry).decode()


def _for_task(request: RoutedRequest) -> bool:
    return request.model is not None and request.model.startswith(TASK_PREFIX)


def _base(reason: str) -> Choice:
    return Choice(None, 0.0, 0.0, reason, ())
