"""The ASGI middleware that records each request which generates, refused and failed ones too.

It stands right behind the front door, so it sees the status and the headers that the client gets, and everything inside
has ended when it closes the record: `serving.replica.answering` waits until nothing of the request is left in the
engine. The half record (`serving.decisions.open_record`) is the running task's, so the middlewares inside and the gate
add to it what they know. The edge gives each request an id, and where a client comes past it Ray Serve does, which also
returns it in the answer's header `x-request-id`. A request that has no usable one all the same gets one here.

It costs some ten microseconds a request, and half of one for each message of a stream.
"""

import logging
from collections.abc import Sequence
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.choice import CHOICE_HEADER, decode_choice
from serving.access.caller import caller
from serving.decisions.open_record import OpenRecord, open_record
from serving.decisions.recorder import Recorder
from serving.names import GENERATING_PATHS
from serving.tracing.context import REQUEST_ID, correlation_of

logger = logging.getLogger("ray.serve")

_ID_BYTES = 16
_CHOICE = CHOICE_HEADER.encode()
_STREAM = b"text/event-stream"


class Recording:
    """ASGI middleware (see the module)."""

    def __init__(self, app: ASGIApp, *, recorder: Recorder | None, replica: str, secrets: Sequence[bytes]) -> None:
        """Wraps `app`.

        Args:
            recorder: takes the records; None records nothing.
            replica: this replica's id.
            secrets: keys that sign the router's choices, for requests that are refused before a model answers.
        """
        self._app = app
        self._recorder = recorder
        self._replica = replica
        self._secrets = secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in GENERATING_PATHS:
            await self._app(scope, receive, send)
            return
        found = correlation_of(scope["headers"])
        is_new = found.request_id is None
        request_id = (found.request_id or token_hex(_ID_BYTES)).encode()
        if is_new:
            others = [header for header in scope["headers"] if header[0] != REQUEST_ID]
            scope = {**scope, "headers": [*others, (REQUEST_ID, request_id)]}
        if self._recorder is None:
            await self._app(scope, receive, _Answer(send, request_id if is_new else None).send)
            return
        record = OpenRecord(
            request_id.decode("ascii"),
            caller.get().name,
            scope["path"],
            found.trace_id,
            self._recorder.prompts,
        )
        answer = _Answer(send, request_id if is_new else None)
        token = open_record.set(record)
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            answer.status = answer.status or 500  # as the server's own handler answers
            raise
        finally:
            open_record.reset(token)
            self._close(self._recorder, record, answer, dict(scope["headers"]).get(_CHOICE))

    def _close(self, recorder: Recorder, record: OpenRecord, answer: "_Answer", choice: bytes | None) -> None:
        try:
            if record.choice is None and record.reason is None and choice is not None:
                record.choice = decode_choice(choice.decode("latin-1"), *self._secrets)
            recorder.add(
                record.part(answer.status, stream=answer.stream, complete=answer.complete, replica=self._replica)
            )
        except Exception:
            logger.exception("a request could not be recorded")


class _Answer:
    """An answer on its way to the client, as far as a record tells of it; with the header of a new id (None: the id is
    the request's own, and who gave it returns it)."""

    __slots__ = ("_new_id", "_send", "complete", "status", "stream")

    def __init__(self, send: Send, new_id: bytes | None) -> None:
        self._send, self._new_id = send, new_id
        self.status: int | None = None
        self.stream = self.complete = False

    async def send(self, message: Message) -> None:
        """The ASGI `send` of the application."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            self.stream = any(name.lower() == b"content-type" and value.startswith(_STREAM) for name, value in headers)
            if self._new_id is not None:
                message = {**message, "headers": [*headers, (REQUEST_ID, self._new_id)]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)
