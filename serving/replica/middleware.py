"""The ASGI middleware before vLLM's application: it sets `model` from the router's choice, names the answering model
and the reason in response headers, and turns the project's errors into OpenAI error objects.

It is plain ASGI because every streamed chunk passes through it: Starlette's `BaseHTTPMiddleware` would copy each one
through a queue.

A request's `model` is an automatic name or a task's id (the router's signed choice decides; without a valid one the
request is refused, or the base model answers where the configuration allows it), a learnware's id, or the base model's
id. Any other value gets a 404 that names close ids. A body that is not a JSON object is passed unchanged to vLLM's
application, which answers with the fitting 4xx.

Requests that generate nothing (`/tokenize`) are neither routed nor counted. `serving.replica.request_body` reads and
rewrites bodies.

While a stack starts, HAProxy knows the engine a moment before it knows the router, and the base model would answer
requests for `auto`. A replica therefore reports itself ready only once a router's choice has reached it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from typing import NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.choice import (
    CHOICE_HEADER,
    FAILED_HEADER,
    FAILED_TIMEOUTS,
    GENERATES_NOTHING,
    MATCHED,
    NAMED,
    NEXT,
    NO_CHOICE,
    ROUTER_OVERLOAD,
    ROUTER_TIMEOUT,
    ROUTER_UNREACHABLE,
    SESSION,
    UNKNOWN_TASK,
    RoutedChoice,
    decode_choice,
)
from serving.decisions.open_record import open_record
from serving.decisions.prompt_text import prompt_text
from serving.names import GENERATING_PATHS
from serving.openai_errors import error_response
from serving.replica.admission import Admission, Names
from serving.replica.limits import TURN, Turn, quoted
from serving.replica.prompt_logprobs import PromptLogprobs
from serving.replica.request_body import IncomingRequest, read_request
from serving.replica.request_metrics import ReplicaMetrics
from serving.replica.shortening import shortened
from serving.tracing.replica import asked
from specs.errors import (
    AdapterUnavailable,
    LearnwareError,
    NotReady,
    Overloaded,
    RouterUnavailable,
    UnknownModel,
)
from specs.suggestion import did_you_mean
from specs.task import TASK_PREFIX

NO_MODEL = "base:no-model"
"""Reason for the base model's answer to a request without `model`."""
NOT_SERVED = "base:not-served"
"""Reason for the base model's answer when the router chose a learnware that this replica does not serve (any more)."""
NOT_LOADED = "base:not-loaded"
"""Reason for the base model's answer when the learnware's adapter could not be loaded."""

NOT_ALLOWED = "base:not-allowed"
"""Reason for the base model's answer when the client's key does not allow the learnware that the router chose."""

Hold = Callable[[str], AbstractAsyncContextManager[None]]
"""Makes a context manager that keeps the adapter of an engine name in host memory while a request runs. Entering it
raises AdapterUnavailable when the adapter cannot be loaded."""

_CHOICE_HEADER = CHOICE_HEADER.encode()
_FAILED_HEADER = FAILED_HEADER.encode()

READY_PATHS = frozenset({"/v1/models", "/health"})
"""Paths by which clients and load balancers test whether a stack is ready."""

READY_ANYWAY_S = 60.0
"""Age in seconds from which a replica counts as ready although no choice has reached it: either nobody has asked for
`auto`, or there is no router any more, and requests that name a model can still be answered."""


class Answerer(NamedTuple):
    """The model that answers a request, the reason for it (`x-learnware-reason`), and the router's choice if there was
    one."""

    model: str
    reason: str
    choice: RoutedChoice | None


class LearnwareMiddleware:
    """ASGI middleware around vLLM's application on an engine replica (see the module)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        secret: bytes,
        other_secrets: Sequence[bytes] = (),
        metrics: ReplicaMetrics,
        hold: Hold = lambda _: nullcontext(),
        base_on_load_failure: bool = False,
        base_without_choice: bool = True,
        prompt_logprobs: PromptLogprobs | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wraps `app`.

        Args:
            admission: the names that are served, and the requests that run under each.
            secret: key of the HMAC that signs the router's choices.
            other_secrets: further keys that are accepted, while one takes the place of another.
            hold: leases an adapter for a request (`AdapterGate.hold`); the default leases nothing.
            base_on_load_failure: the base model answers a request that names a learnware whose adapter cannot be
                loaded; otherwise it fails. Where the router chose it, the next best answers, or the base model.
            base_without_choice: the base model answers when no router has chosen; otherwise the request is refused and
                may be sent again.
            prompt_logprobs: decides which requests may ask for log-probabilities of their prompt; the default admits
                all.
            clock: monotonic time in seconds.
        """
        self._app = app
        self._admission = admission
        self._secrets = (secret, *other_secrets)
        self._metrics = metrics
        self._hold = hold
        self._base_on_load_failure = base_on_load_failure
        self._base_without_choice = base_without_choice
        self._prompt_logprobs = prompt_logprobs or PromptLogprobs()
        self._clock = clock
        self._ready_at = clock() + READY_ANYWAY_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as claims:  # on the answering learnware, until the answer is complete
            try:
                self._check_ready(scope["path"])
                request, answerer = await self._admit(await read_request(scope, receive), claims)
            except ClientDisconnect:
                return
            except LearnwareError as error:
                await error_response(error, scope["path"])(scope, receive, send)
                return
            if answerer is not None:
                request = request.naming(answerer.model)
                send = _announcing(send, answerer)
                self._count(scope["path"], answerer)
            await self._app(request.scope, request.replay(), send)

    def _check_ready(self, path: str) -> None:
        """Raises NotReady when a client asks whether the stack is ready before a router's choice has reached it."""
        if path in READY_PATHS and self._clock() < self._ready_at:
            raise NotReady("The stack is still starting; requests would not be routed yet. Try again in a second.")

    async def _admit(self, request: IncomingRequest, claims: AsyncExitStack) -> tuple[IncomingRequest, Answerer | None]:
        """Decides which model answers and enters into `claims` what it needs until its answer is complete. Returns the
        request within the limits, and None in the model's place where it is passed on as it is.

        Raises:
            UnknownModel, Overloaded, RouterUnavailable: no model answers (`_answerer`).
            InvalidInput: the request asks for log-probabilities of its prompt, which are not available, or for more
                than the limits allow.
            RateLimited: the replica is full, or the tenant has used up its tokens.
            AdapterUnavailable: the learnware's adapter cannot be loaded, and the base model does not answer instead.
        """
        if request.payload is None:
            return request, None
        asked(request.model)
        names = self._admission.names  # one state of the market for the whole request
        turn: Turn | None = request.scope.get(TURN)
        if turn is not None:
            turn.check_model(request.model)
        _note_asked(request)
        answerer = self._answerer(request.scope, request.model, names)
        automatic = _is_automatic(request.model, names)
        if turn is not None:
            answerer = _permitted(turn, answerer, automatic, names)
            if request.scope["path"] in GENERATING_PATHS:
                request = request.carrying(turn.bounded(request.payload, automatic))
                claims.enter_context(turn.admitted())
        claims.enter_context(shortened(automatic))
        claims.enter_context(self._prompt_logprobs.admit(request.scope["path"], request.payload or {}))
        answerer = await self._claimed(answerer, turn, names, claims)
        _note_answerer(answerer, names)
        return request, answerer

    async def _claimed(self, answerer: Answerer, turn: Turn | None, names: Names, claims: AsyncExitStack) -> Answerer:
        """Claims the answering model; returns another one that answers where its adapter cannot be loaded."""
        try:
            await self._claim(answerer.model, names, claims)
            return answerer
        except AdapterUnavailable as error:
            if answerer.reason == NAMED and not self._base_on_load_failure:
                raise
            failure = error
        after = _next_of(answerer, names)
        if after is not None and (turn is None or turn.may_use(after.model, automatic=True)):
            with suppress(AdapterUnavailable):
                await self._claim(after.model, names, claims)
                return after
        if turn is not None and not turn.may_use(names.base, answerer.reason != NAMED):
            raise failure
        return answerer._replace(model=names.base, reason=NOT_LOADED)

    async def _claim(self, model: str, names: Names, claims: AsyncExitStack) -> None:
        """Keeps a model's version in the engine, and its adapter in host memory, until `claims` ends; the base model
        needs neither. Raises AdapterUnavailable."""
        engine_name = names.learnwares.get(model)
        claims.enter_context(self._admission.use(engine_name))
        if engine_name is not None:
            await claims.enter_async_context(self._hold(engine_name))

    def _count(self, path: str, answerer: Answerer) -> None:
        if path in GENERATING_PATHS:
            self._metrics.count(answerer.model, answerer.reason)

    def _answerer(self, scope: Scope, model: str | None, names: Names) -> Answerer:
        """Decides which model answers a request for `model`, among the names of one state of the market.

        Raises:
            UnknownModel: no model, learnware or task has this name.
            Overloaded, RouterUnavailable: no router has chosen, and the base model does not answer instead.
        """
        if model in names.auto_names:
            return self._automatic(scope, names)
        if model is not None and model.startswith(TASK_PREFIX):
            return self._for_task(scope, model, names)
        if model is None or model == "":
            return Answerer(names.base, NO_MODEL, None)
        if model == names.base or model in names.learnwares:
            return Answerer(model, NAMED, None)
        hint = did_you_mean(model, names.every) or "."
        raise UnknownModel(
            f"The model {quoted(model)} does not exist{hint} Use {min(names.auto_names)!r} to let the router choose; "
            "GET /v1/models lists every id."
        )

    def _for_task(self, scope: Scope, model: str, names: Names) -> Answerer:
        answerer = self._automatic(scope, names)
        if answerer.reason == UNKNOWN_TASK:
            raise UnknownModel(
                f"There is no task {quoted(model)}. Make its specification with `learnware-serving spec make` and "
                "POST the file to /v1/task-specs, which answers with the id."
            )
        if answerer.reason.startswith((MATCHED, SESSION)):
            # The router saw a cut body, without its `model`: it chose for this request's text and not for the task.
            return Answerer(names.base, NO_CHOICE, answerer.choice)
        return answerer

    def _automatic(self, scope: Scope, names: Names) -> Answerer:
        headers = dict(scope["headers"])
        value = headers.get(_CHOICE_HEADER)
        choice = decode_choice(value.decode("latin-1"), *self._secrets) if value else None
        if choice is not None:
            self._ready_at = self._clock()
        elif scope["path"] not in GENERATING_PATHS:
            return Answerer(names.base, GENERATES_NOTHING, None)
        if choice is None:
            choice = RoutedChoice(None, _why_none(headers.get(_FAILED_HEADER)), 0.0, 0.0)
        elif choice.learnware is not None and choice.learnware not in names.learnwares:
            after = _next_of(Answerer(choice.learnware, choice.reason, choice), names)
            if after is not None:
                return after
            choice = choice._replace(learnware=None, reason=NOT_SERVED)
        if not self._base_without_choice:
            _refuse_unchosen(choice.reason)
        return Answerer(choice.learnware or names.base, choice.reason, choice)


def _note_asked(request: IncomingRequest) -> None:
    """Notes the request in its record, if it has one."""
    record = open_record.get()
    if record is not None:
        record.model = request.model
        if record.keeps_text and request.payload is not None:
            record.prompt = prompt_text(request.payload)


def _note_answerer(answerer: Answerer, names: Names) -> None:
    """Notes in the request's record who answers, and why."""
    record = open_record.get()
    if record is not None:
        version = names.learnwares.get(answerer.model)
        record.answered_by(answerer.model, version, answerer.reason, answerer.choice)


def _is_automatic(model: str | None, names: Names) -> bool:
    """Whether `model` leaves the choice to the router."""
    return model is not None and (model in names.auto_names or model.startswith(TASK_PREFIX))


def _permitted(turn: Turn, answerer: Answerer, automatic: bool, names: Names) -> Answerer:
    """Returns the answering model if the tenant may use it, else the router's next best, else the base model.

    Raises:
        UnknownModel: the tenant may use none of them.
    """
    if turn.may_use(answerer.model, automatic):
        return answerer
    if automatic:
        after = _next_of(answerer, names)
        if after is not None and turn.may_use(after.model, automatic):
            return after
        if turn.may_use(names.base, automatic):
            return answerer._replace(model=names.base, reason=NOT_ALLOWED)
    raise turn.no_access(answerer.model)


def _next_of(answerer: Answerer, names: Names) -> Answerer | None:
    """Returns the next best learnware of a router's choice in the place of one that cannot answer; None when there is
    none, or it is not served."""
    choice = answerer.choice
    if choice is None or choice.next not in names.learnwares or choice.next == answerer.model:
        return None
    assert choice.next is not None
    return Answerer(choice.next, answerer.reason + NEXT, choice)


def _why_none(failed: bytes | None) -> str:
    """Returns the reason for a missing choice, from what HAProxy says of the router in the header `FAILED_HEADER`."""
    if failed is None:
        return NO_CHOICE
    return ROUTER_TIMEOUT if failed.decode("latin-1") in FAILED_TIMEOUTS else ROUTER_UNREACHABLE


def _refuse_unchosen(reason: str) -> None:
    """Refuses a request that no router has chosen for.

    Raises:
        Overloaded: the routers have too many requests.
        RouterUnavailable: no router could be reached.
    """
    if reason in (ROUTER_OVERLOAD, ROUTER_TIMEOUT):
        raise Overloaded("The router has more requests than it can decide on in time. Try again, or name a model.")
    if reason in (ROUTER_UNREACHABLE, NO_CHOICE):
        raise RouterUnavailable("No router is there that could choose a model. Try again, or name one.")


def _announcing(send: Send, answerer: Answerer) -> Send:
    """Returns an ASGI `send` that adds the `x-learnware*` headers to the answer, streamed or not."""
    headers = [(b"x-learnware", answerer.model.encode()), (b"x-learnware-reason", answerer.reason.encode())]
    if answerer.choice is not None:
        headers.append((b"x-learnware-score", f"{answerer.choice.score:.4f}".encode()))
        headers.append((b"x-learnware-route-ms", f"{answerer.choice.milliseconds:.3f}".encode()))

    async def announce(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return announce
