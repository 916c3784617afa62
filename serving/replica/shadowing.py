"""Shadow: a share of the requests is answered a second time by another model, on idle engine time, to compare the two.

`Shadowing` is the ASGI middleware right before vLLM's application, so it sees a request as it runs, within all limits.
It passes everything on. Where a drawn request's answer came whole, it offers a job (`serving.replica.idle_work`) that
gives the same body to vLLM's application once more with another `model`, not streamed. So template, tools and sampling
are the same. No client waits for it, and it is in no metrics but its own; what both said goes to the application that
keeps decisions, where it is judged (`serving.decisions.recorder.Recorder.compared`).

Drawn are ordinary requests by their ids: of one prompt and one answer, for which the engine ran once, and whose body
is not large. The other model is:

- the canary, where the learnware that answered has one; the learnware, where its canary answered;
- with `shadow.against: next` the runner-up of the router's choice, and the base model where there is none or none was
  made; with `base` always the base model;
- none where the base model answered, unless its choice names a runner-up, which a router of today never does.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.drawing import drawn
from serving.access.caller import caller
from serving.access.tenant import Tenant
from serving.config_evaluation import ShadowSettings
from serving.decisions.open_record import OpenRecord, open_record
from serving.decisions.prompt_text import prompt_text
from serving.paging.inflight import DeadEngine, Exchange, exchange
from serving.replica.admission import Admission, Names
from serving.replica.asked import CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH, asked
from serving.replica.idle_work import DROPPED, OUTCOMES, IdleWork
from serving.replica.middleware import Hold
from serving.replica.prompt_logprobs import asks_for_them
from serving.replica.request_shape import parse_object
from serving.replica.shortening import shortened
from specs.canary import canary_id, is_canary, learnware_of
from specs.errors import InvalidInput, LearnwareError

MESSAGES_PATH = "/v1/messages"
PATHS = frozenset({CHAT_PATH, COMPLETIONS_PATH, RESPONSES_PATH, MESSAGES_PATH})
"""Paths whose requests are answered a second time."""
LARGEST_BODY = 256 << 10
"""Largest body in bytes that is kept for a second answer: as many as may wait then take some MiB."""
SHADOW, OF_CANARY = "shadow", "canary"
"""Kinds of comparisons."""
ENDING = b"-shadow"
"""Stands after the request's id in the id of its second answer."""

_NOT_AGAIN = ("stream", "stream_options", "request_id", "background")
"""Fields of a body that a second answer has not."""
_STORED = ("background", "previous_response_id", "conversation")
"""Fields of requests whose answer goes on from, or into, what the server keeps."""
_KEPT = ("type", "asgi", "http_version", "method", "path", "raw_path", "root_path", "scheme", "server", "client", "app")
"""Keys of the ASGI scope that a second answer needs of the first one's."""


class Compares(Protocol):
    """Takes comparisons (`serving.decisions.recorder.Recorder`)."""

    def compared(self, part: Mapping[str, Any]) -> bool:
        """Takes a comparison; returns False where there is no room for it."""
        ...


class Drawn(NamedTuple):
    """A request that was answered and is to be answered again."""

    scope: Scope
    payload: Mapping[str, Any]
    other: str
    kind: str
    tenant: Tenant
    record: OpenRecord
    first: Mapping[str, Any]
    """The answer that the client got, as a side of the comparison."""


class Shadowing:
    """ASGI middleware (see the module)."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ShadowSettings,
        admission: Admission,
        hold: Hold,
        idle_work: IdleWork,
        recorder: Compares,
        registry: CollectorRegistry,
    ) -> None:
        """Wraps `app`, vLLM's application.

        Args:
            settings: the share, and which model is the other one.
            admission: the names that are served.
            hold: leases an adapter (`serving.paging.gate.AdapterGate.hold`).
            idle_work: does the second answers.
            recorder: takes the comparisons.
            registry: gets the counter of second answers.
        """
        self._app = app
        self._settings = settings
        self._admission = admission
        self._hold = hold
        self._idle_work = idle_work
        self._recorder = recorder
        self._counter = Counter(
            "learnware_shadow_requests",
            "Requests that were answered a second time for a comparison, or should have been, by what became of it.",
            ["outcome"],
            registry=registry,
        )
        for outcome in OUTCOMES:
            self._counter.labels(outcome)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = open_record.get()
        if scope["type"] != "http" or scope["path"] not in PATHS or record is None or not self._is_drawn(record):
            await self._app(scope, receive, send)
            return
        record.gathers_text = True
        exchanged = _Exchanged(receive, send)
        await self._app(scope, exchanged.receive, exchanged.send)
        if exchanged.complete and _went_well(exchange.get()):
            drawn = self._drawn(scope, exchanged.body, record)
            if drawn is not None:
                self._idle_work.offer(lambda: self._answer(drawn), self._count)

    def _is_drawn(self, record: OpenRecord) -> bool:
        return record.learnware is not None and drawn("shadow", record.request_id, self._settings.share)

    def _drawn(self, scope: Scope, body: bytes, record: OpenRecord) -> Drawn | None:
        """Returns what a second answer needs; None for a request that gets none."""
        path = scope["path"]
        payload = _payload(path, body)
        if payload is None or len(record.runs) != 1:
            return None
        other = other_model(record, self._admission.names, self._settings.against)
        if other is None:
            return None
        headers = [(b"content-type", b"application/json"), (b"x-request-id", record.request_id.encode() + ENDING)]
        kept = {name: scope[name] for name in _KEPT if name in scope}
        again = {**kept, "headers": headers, "query_string": b"", "state": dict(scope.get("state", {}))}
        kind = OF_CANARY if is_canary(other) or is_canary(str(record.learnware)) else SHADOW
        return Drawn(again, payload, other, kind, caller.get(), record, _side(record, 200))

    async def _answer(self, drawn: Drawn) -> None:
        """Has the other model answer, and hands both answers on. An answer that is refused, such as one that has no
        room for the prompt, tells of no model and is no comparison."""
        names = self._admission.names
        engine_name = names.learnwares.get(drawn.other)
        if engine_name is None and drawn.other != names.base:
            raise InvalidInput(f"{drawn.other} is not served any more")
        path = drawn.scope["path"]
        record = OpenRecord(drawn.record.request_id, drawn.tenant.name, path, None, keeps_text=True)
        record.answered_by(drawn.other, engine_name, drawn.kind, None)
        caller.set(drawn.tenant)
        open_record.set(record)
        status = await self._status(drawn, engine_name)
        if status != 200 and status < 500:
            raise InvalidInput(f"{drawn.other} refused the request with status {status}")
        one = drawn.record
        taken = self._recorder.compared(
            {
                "id": one.request_id,
                "tenant": one.tenant,
                "decision": None if one.choice is None else one.choice.id,
                "time": one.time,
                "path": path,
                "prompt": prompt_text(drawn.payload),
                "sides": [drawn.first, _side(record, status)],
                "kind": drawn.kind,
            }
        )
        if not taken:
            self._count(DROPPED)

    async def _status(self, drawn: Drawn, engine_name: str | None) -> int:
        """Returns the HTTP status of the second answer, whose text the open record gathers.

        Raises:
            DeadEngine: the engine is gone, which is not the model's fault.
        """
        body = {name: value for name, value in drawn.payload.items() if name not in _NOT_AGAIN}
        body |= {"model": drawn.other} | ({"store": False} if drawn.scope["path"] == RESPONSES_PATH else {})
        content = json.dumps(body, separators=(",", ":")).encode()
        length = (b"content-length", str(len(content)).encode())
        scope = {**drawn.scope, "headers": [*drawn.scope["headers"], length]}
        exchanged, running = _Exchanged(_once(content), _nowhere), Exchange()
        exchange.set(running)
        try:
            async with AsyncExitStack() as claims:
                claims.enter_context(shortened(True))
                claims.enter_context(self._admission.use(engine_name))
                if engine_name is not None:
                    await claims.enter_async_context(self._hold(engine_name))
                await self._app(scope, exchanged.receive, exchanged.send)
        except LearnwareError as error:
            running.failure = running.failure or error
        finally:
            await running.abandon()  # a job that is given up ends what it has in the engine
        if isinstance(running.failure, DeadEngine):
            raise running.failure
        if isinstance(running.failure, LearnwareError):
            return running.failure.status
        return exchanged.status or 500

    def _count(self, outcome: str) -> None:
        self._counter.labels(outcome).inc()


def other_model(record: OpenRecord, names: Names, against: str) -> str | None:
    """Returns the model that answers a request a second time (see the module); None where there is none."""
    first = record.learnware
    if first is None:
        return None
    if is_canary(first):
        learnware = learnware_of(first)
        return learnware if learnware in names.learnwares else None
    if (canary := canary_id(first)) in names.learnwares:
        return canary
    runner_up = None if record.choice is None else record.choice.next
    if against == "next" and runner_up != first and runner_up in names.learnwares:
        return runner_up
    return names.base if first != names.base else None


def _payload(path: str, body: bytes) -> Mapping[str, Any] | None:
    """Returns the JSON object of an ordinary request; None for any other."""
    if not 0 < len(body) <= LARGEST_BODY:
        return None
    try:
        payload = parse_object(body)
    except InvalidInput:  # whatever it is, it was answered
        return None
    if payload is None or asked(path, payload).places != 1 or asks_for_them(path, payload):
        return None
    return None if any(payload.get(name) for name in _STORED) else payload


def _went_well(running: Exchange | None) -> bool:
    return running is None or (running.failure is None and not running.abandoned)


def _side(record: OpenRecord, status: int) -> dict[str, Any]:
    """Returns what one model answered, for JSON. `tokens` are those of the answer, `seconds` from the gate to its
    end."""
    began = record.runs[0].came if record.runs else record.started
    return {
        "learnware": record.learnware,
        "version": record.version,
        "answer": record.answer,
        "tokens": sum(run.generated_tokens for run in record.runs),
        "seconds": round(time.monotonic() - began, 4),
        "status": status,
    }


class _Exchanged:
    """A body and an answer on their way through."""

    __slots__ = ("_chunks", "_receive", "_send", "_size", "complete", "status")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._chunks: list[bytes] = []
        self._size = 0
        self.status: int | None = None
        self.complete = False
        """Whether the answer's end came, with status 200."""

    @property
    def body(self) -> bytes:
        """The request's body, empty where it is larger than `LARGEST_BODY`."""
        return b"".join(self._chunks) if self._size <= LARGEST_BODY else b""

    async def receive(self) -> Message:
        """The ASGI `receive` of the application."""
        message = await self._receive()
        if message["type"] == "http.request":
            chunk = message.get("body", b"")
            self._size += len(chunk)
            if self._size <= LARGEST_BODY:
                self._chunks.append(chunk)
        return message

    async def send(self, message: Message) -> None:
        """The ASGI `send` of the application."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = self.status == 200
        await self._send(message)


def _once(body: bytes) -> Receive:
    """Returns an ASGI `receive` that yields the body and then waits: nobody is there who could hang up."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _nowhere(_: Message) -> None:
    """Sends nothing: an answer's text is taken where it leaves the engine."""
