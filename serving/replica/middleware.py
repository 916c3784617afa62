"""The replica's HTTP edge: sets `model` from the router's choice, says in headers who answers and why, and maps our
errors.

Pure ASGI, since it stands in the token path: Starlette's `BaseHTTPMiddleware` would copy every streamed chunk through a
queue.

A request's `model` is one of the automatic names or a task's id (the signed choice decides; without a valid one the
request is refused, or the base model answers where the configuration says so), a learnware's id, or the base model's
id. Anything else gets a 404 that names close ids. Bodies that are no JSON object go on unread to vLLM's own
application, which answers with the right 4xx.

Nothing is chosen for a request that generates nothing (`/tokenize`), and none such is counted.

While a stack starts, HAProxy knows the engine a moment before it knows the router, and `auto` would be answered by the
base model. So a replica calls itself ready only once a choice has reached it.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from typing import Any, NamedTuple

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
from serving.replica.admission import Names, Served
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
from specs.suggestion import did_you_mean
from specs.task import TASK_PREFIX

NO_MODEL = "base:no-model"
NOT_SERVED = "base:not-served"
NOT_LOADED = "base:not-loaded"

Hold = Callable[[str], AbstractAsyncContextManager[None]]
"""Keeps the adapter with this engine name in host memory; entering raises AdapterUnavailable when it cannot be loaded.
"""

_CHOICE_HEADER = CHOICE_HEADER.encode()
_FAILED_HEADER = FAILED_HEADER.encode()

READY_PATHS = frozenset({"/v1/models", "/health"})
"""What clients and load balancers ask to learn whether a stack is ready."""

READY_ANYWAY_S = 60.0
"""Past this age a replica counts as ready although no choice has reached it: nobody has asked for `auto`, or there is
no router any more, and then it still answers for named models."""

EXPLAIN_PATH = "/v1/route"
"""Explains a choice, so it must see `model` as the client wrote it."""


class Answerer(NamedTuple):
    """Who answers a request: the value for `model`, and what the headers say."""

    model: str
    reason: str
    choice: RoutedChoice | None


class LearnwareMiddleware:
    """Wraps vLLM's application on an engine replica."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        served: Served,
        secret: bytes,
        metrics: ReplicaMetrics,
        hold: Hold = lambda _: nullcontext(),
        base_stands_in: bool = False,
        base_without_choice: bool = True,
        prompt_logprobs: PromptLogprobs | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base_stands_in`: the base model answers when an adapter cannot be loaded. `base_without_choice`: it answers
        when no router has chosen, which otherwise is an error that says to come again. `prompt_logprobs` knows which
        requests may ask for them (default: all)."""
        self._app = app
        self._served = served
        self._secret = secret
        self._metrics = metrics
        self._hold = hold
        self._base_stands_in = base_stands_in
        self._base_without_choice = base_without_choice
        self._prompt_logprobs = prompt_logprobs or PromptLogprobs()
        self._clock = clock
        self._ready_at = clock() + READY_ANYWAY_S

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in READY_PATHS and self._clock() < self._ready_at:
            error = NotReady("The stack is still starting; requests would not be routed yet. Try again in a second.")
            await openai_error(error)(scope, receive, send)
            return
        if scope["type"] != "http" or not _takes_a_model(scope):
            await self._app(scope, receive, send)
            return
        body = await _read_body(receive)
        if body is None:
            return
        try:
            # Each process that needs something of a body parses it: the router, for the prompts (`router.request`);
            # this one, for `model` and for what `PromptLogprobs` asks; then vLLM's application, which takes bytes
            # alone. They are written anew only where the model is another one than the client named.
            payload = _json_object(body)
            model = payload.get("model") if payload else None
            if payload is None or not (model is None or isinstance(model, str)):
                await self._app(scope, _replay(body, receive), send)
                return
            names = self._served.names  # one state of the market for the whole request
            answerer = self._answerer(scope, model, names)
        except LearnwareError as error:
            await openai_error(error)(scope, receive, send)
            return
        async with AsyncExitStack() as held:
            engine_name = names.learnwares.get(answerer.model)
            held.enter_context(self._served.use(engine_name))  # admitted: it stays in the engine until this is done
            try:
                held.enter_context(self._prompt_logprobs.admit(scope["path"], payload))
            except InvalidInput as error:
                await openai_error(error)(scope, receive, send)
                return
            if engine_name is not None:
                try:
                    await held.enter_async_context(self._hold(engine_name))
                except AdapterUnavailable as error:
                    if not self._base_stands_in:
                        await openai_error(error)(scope, receive, send)
                        return
                    answerer = answerer._replace(model=names.base, reason=NOT_LOADED)
            if model is not None and answerer.model != model:
                payload["model"] = answerer.model
                body = json.dumps(payload, separators=(",", ":")).encode()
                scope = _with_length(scope, len(body))
            if scope["path"] in GENERATING_PATHS:
                self._metrics.count(answerer.model, answerer.reason)
            await self._app(scope, _replay(body, receive), _announcing(send, answerer))

    def _answerer(self, scope: Scope, model: str | None, names: Names) -> Answerer:
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
            f"The model {model!r} does not exist{hint} Use {min(names.auto_names)!r} to let the router choose; "
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
            # The router read the texts of a cut body and not its model: a choice for this request, not for the task.
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
    """The reason for a request without a choice, by what the edge says of the router."""
    if failed is None:
        return NO_CHOICE
    return ROUTER_TIMEOUT if failed.decode("latin-1") in FAILED_TIMEOUTS else ROUTER_UNREACHABLE


def _refuse_unchosen(reason: str) -> None:
    """Raises for the reasons that mean that no router has chosen."""
    if reason in (ROUTER_OVERLOAD, ROUTER_TIMEOUT):
        raise Overloaded("The router has more requests than it can decide on in time. Try again, or name a model.")
    if reason in (ROUTER_UNREACHABLE, NO_CHOICE):
        raise RouterUnavailable("No router is there that could choose a model. Try again, or name one.")


def _takes_a_model(scope: Scope) -> bool:
    if scope["method"] != "POST" or scope["path"] == EXPLAIN_PATH:
        return False
    return any(name == b"content-type" and b"json" in value.lower() for name, value in scope["headers"])


def _json_object(body: bytes) -> dict[str, Any] | None:
    """The body as a JSON object, None when it is none.

    Raises:
        InvalidInput: it is not text; FastAPI would answer that with an error of its own form.
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


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client hung up before it was sent."""
    chunks: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, then whatever the server has to say (a disconnect aborts the request in the engine)."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_length(scope: Scope, length: int) -> Scope:
    headers = [
        (name, value) for name, value in scope["headers"] if name not in (b"content-length", b"transfer-encoding")
    ]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _announcing(send: Send, answerer: Answerer) -> Send:
    """Adds the `x-learnware*` headers to the answer, streamed or not."""
    headers = [(b"x-learnware", answerer.model.encode()), (b"x-learnware-reason", answerer.reason.encode())]
    if answerer.choice is not None:
        headers.append((b"x-learnware-score", f"{answerer.choice.score:.4f}".encode()))
        headers.append((b"x-learnware-route-ms", f"{answerer.choice.milliseconds:.3f}".encode()))

    async def announce(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return announce
