"""The ASGI middleware before vLLM's application: it sets `model` from the router's choice, names the answering model
and the reason in response headers, and turns the project's errors into OpenAI error objects.

It is plain ASGI because every streamed chunk passes through it: Starlette's `BaseHTTPMiddleware` would copy each one
through a queue.

A request's `model` is an automatic name or a task's id (the router's signed choice decides; without a valid one the
request is refused, or the base model answers where the configuration allows it), a learnware's id, or the base model's
id. Any other value gets a 404 that names close ids. A body that is not a JSON object is passed unchanged to vLLM's
application, which answers with the fitting 4xx.

At `/invocations` a header may name the model: vLLM 0.29 writes SageMaker's adapter header over the body's `model`, and
null where the client sent none. So it counts as the client's `model` here, and carries the one that answers.

Requests for log-probabilities of tokens that the client lists are refused, since they would spoil other clients'
(`CHOSEN_LOGPROBS`). Requests that generate nothing (`/tokenize`) are neither routed nor counted.

While a stack starts, HAProxy knows the engine a moment before it knows the router, and the base model would answer
requests for `auto`. A replica therefore reports itself ready only once a router's choice has reached it.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, NamedTuple

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.choice import (
    CHOICE_HEADER,
    FAILED_HEADER,
    FAILED_TIMEOUTS,
    GENERATES_NOTHING,
    MATCHED,
    NAMED,
    NO_CHOICE,
    ROUTER_OVERLOAD,
    ROUTER_TIMEOUT,
    ROUTER_UNREACHABLE,
    SESSION,
    UNKNOWN_TASK,
    RoutedChoice,
    decode_choice,
)
from serving.names import GENERATING_PATHS
from serving.openai_errors import openai_error
from serving.replica.admission import Admission, Names
from serving.replica.prompt_logprobs import PromptLogprobs
from serving.replica.request_metrics import ReplicaMetrics
from specs.errors import (
    AdapterUnavailable,
    InvalidInput,
    LearnwareError,
    NotReady,
    Overloaded,
    RouterUnavailable,
    UnknownModel,
)
from specs.task import TASK_PREFIX

NO_MODEL = "base:no-model"
"""Reason for the base model's answer to a request without `model`."""
NOT_SERVED = "base:not-served"
"""Reason for the base model's answer when the router chose a learnware that this replica does not serve (any more)."""
NOT_LOADED = "base:not-loaded"
"""Reason for the base model's answer when the learnware's adapter could not be loaded."""

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

SAGEMAKER_PATH = "/invocations"
_SAGEMAKER_ADAPTER = b"x-amzn-sagemaker-adapter-identifier"
"""`inject_adapter_id` on the route of `vllm.entrypoints.serve.sagemaker.api_router` reads it."""

CHOSEN_LOGPROBS = frozenset({"logprob_token_ids", "label_token_ids"})
"""Fields of a body, or of its `sampling_params`, that list tokens: chat's, and those of `/generative_scoring`. With one
such request in the batch vLLM 0.29 gives all others that ask for log-probabilities the listed tokens' places in the
stead of their own likeliest ones, filled with minus infinity (`vllm.v1.sample.sampler.Sampler.forward`)."""

EXPLAIN_PATH = "/v1/route"
"""Path of the explanation of a choice, which the middleware passes on unchanged: the router must see `model` as the
client wrote it."""


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
            hold: leases an adapter for a request (`AdapterGate.hold`); the default leases nothing.
            base_on_load_failure: the base model answers when an adapter cannot be loaded; otherwise the request fails.
            base_without_choice: the base model answers when no router has chosen; otherwise the request is refused and
                may be sent again.
            prompt_logprobs: decides which requests may ask for log-probabilities of their prompt; the default admits
                all.
            clock: monotonic time in seconds.
        """
        self._app = app
        self._admission = admission
        self._secret = secret
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
                request = await _read(scope, receive)
                answerer = await self._admit(request, claims)
            except ClientDisconnect:
                return
            except LearnwareError as error:
                await openai_error(error)(scope, receive, send)
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

    async def _admit(self, request: "_Request", claims: AsyncExitStack) -> Answerer | None:
        """Decides which model answers and enters into `claims` what it needs until its answer is complete; None for a
        request that is passed on as it is.

        Raises:
            UnknownModel, Overloaded, RouterUnavailable: no model answers (`_answerer`).
            InvalidInput: the request asks for log-probabilities of its prompt, which are not available.
            AdapterUnavailable: the learnware's adapter cannot be loaded, and the base model does not answer instead.
        """
        if request.payload is None:
            return None
        names = self._admission.names  # one state of the market for the whole request
        answerer = self._answerer(request.scope, request.model, names)
        engine_name = names.learnwares.get(answerer.model)
        claims.enter_context(self._admission.use(engine_name))  # from here on this version stays in the engine
        claims.enter_context(self._prompt_logprobs.admit(request.scope["path"], request.payload))
        if engine_name is not None:
            try:
                await claims.enter_async_context(self._hold(engine_name))
            except AdapterUnavailable:
                if not self._base_on_load_failure:
                    raise
                return answerer._replace(model=names.base, reason=NOT_LOADED)
        return answerer

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
        close = names.close_to(model)
        hint = f"Did you mean {', '.join(close)}? " if close else ""
        raise UnknownModel(
            f"The model {model!r} does not exist. {hint}Use {min(names.auto_names)!r} to let the router choose; "
            "GET /v1/models lists every id."
        )

    def _for_task(self, scope: Scope, model: str, names: Names) -> Answerer:
        answerer = self._automatic(scope, names)
        if answerer.reason == UNKNOWN_TASK:
            raise UnknownModel(
                f"There is no task {model!r}. Make its specification with `learnware-serving spec make` and POST the "
                "file to /v1/task-specs, which answers with the id."
            )
        if answerer.reason.startswith((MATCHED, SESSION)):
            # The router saw a cut body, without its `model`: it chose for this request's text and not for the task.
            return Answerer(names.base, NO_CHOICE, answerer.choice)
        return answerer

    def _automatic(self, scope: Scope, names: Names) -> Answerer:
        headers = dict(scope["headers"])
        value = headers.get(_CHOICE_HEADER)
        choice = decode_choice(value.decode("latin-1"), self._secret) if value else None
        if choice is not None:
            self._ready_at = self._clock()
        elif scope["path"] not in GENERATING_PATHS:
            return Answerer(names.base, GENERATES_NOTHING, None)
        if choice is None:
            choice = RoutedChoice(None, _why_none(headers.get(_FAILED_HEADER)), 0.0, 0.0)
        elif choice.learnware is not None and choice.learnware not in names.learnwares:
            choice = choice._replace(learnware=None, reason=NOT_SERVED)
        if not self._base_without_choice:
            _refuse_unchosen(choice.reason)
        return Answerer(choice.learnware or names.base, choice.reason, choice)


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


def _takes_a_model(scope: Scope) -> bool:
    if scope["method"] != "POST" or scope["path"] == EXPLAIN_PATH:
        return False
    return any(name == b"content-type" and b"json" in value.lower() for name, value in scope["headers"])


def _sagemaker_adapter(scope: Scope) -> str | None:
    value = dict(scope["headers"]).get(_SAGEMAKER_ADAPTER)
    return value.decode("latin-1") if value else None


def _json_object(body: bytes) -> dict[str, Any] | None:
    """Parses the body as a JSON object; None when it is not one.

    Raises:
        InvalidInput: the body is not UTF-8, which FastAPI would answer with an error that is no OpenAI error object.
    """
    try:
        payload = json.loads(body)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"The request body must be JSON in UTF-8; byte {error.start} is not: {error.reason}."
        ) from None
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


class _Request(NamedTuple):
    """A request on its way to vLLM's application. `body` is None where it was not read; `payload` is the body's JSON
    object, or None for a request that is passed on as it is."""

    scope: Scope
    receive: Receive
    body: bytes | None = None
    payload: dict[str, Any] | None = None
    model: str | None = None
    """The model that the client asks for."""

    def naming(self, model: str) -> "_Request":
        """Returns the request with `model` in its body, and at `/invocations` in SageMaker's header; a body that names
        no model is left as it is."""
        scope, body = self.scope, self.body
        if self.payload is not None and self.model not in (None, model):
            body = json.dumps({**self.payload, "model": model}, separators=(",", ":")).encode()
            scope = _with_length(scope, len(body))
        if scope["path"] == SAGEMAKER_PATH:
            scope = _with_header(scope, _SAGEMAKER_ADAPTER, model)
        return self._replace(scope=scope, body=body)

    def replay(self) -> Receive:
        """Returns the ASGI `receive` by which vLLM's application reads this request."""
        return self.receive if self.body is None else _replay(self.body, self.receive)


async def _read(scope: Scope, receive: Receive) -> _Request:
    """Reads the body of a request that may name a model; any other request is left unread.

    Raises:
        ClientDisconnect: the client hung up before the body was complete.
        InvalidInput: the body is not UTF-8, or it asks for log-probabilities of listed tokens.
    """
    if not _takes_a_model(scope):
        return _Request(scope, receive)
    body = await _read_body(receive)
    payload = _json_object(body)
    if payload is None:
        return _Request(scope, receive, body)
    _refuse_chosen_logprobs(payload)
    model = payload.get("model")
    if scope["path"] == SAGEMAKER_PATH:
        model = _sagemaker_adapter(scope) or model
    if not isinstance(model, str | None):
        return _Request(scope, receive, body)  # vLLM's own validation says what is wrong
    return _Request(scope, receive, body, payload, model)


def _refuse_chosen_logprobs(payload: dict[str, Any]) -> None:
    """Raises InvalidInput for a body that asks for log-probabilities of listed tokens."""
    sampling = payload.get("sampling_params")
    for place in (payload, sampling if isinstance(sampling, dict) else {}):
        given = sorted(field for field in CHOSEN_LOGPROBS if place.get(field) is not None)
        if given:
            raise InvalidInput(
                f"Log-probabilities of listed tokens ({given[0]}) are not available: vLLM would give the same tokens "
                "to everybody whose request runs beside. Leave the field out; logprobs with top_logprobs are there."
            )


async def _read_body(receive: Receive) -> bytes:
    """Returns the whole body.

    Raises:
        ClientDisconnect: the client hung up before it was complete.
    """
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns an ASGI `receive` that yields the body once and then the server's own messages; a disconnect among them
    aborts the request in the engine."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [header for header in scope["headers"] if header[0] != b"transfer-encoding"]
    return _with_header({**scope, "headers": headers}, b"content-length", str(length))


def _with_header(scope: Scope, name: bytes, value: str) -> Scope:
    headers = [header for header in scope["headers"] if header[0] != name]
    return {**scope, "headers": [*headers, (name, value.encode())]}


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
