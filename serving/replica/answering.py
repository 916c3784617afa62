"""The ASGI middleware that answers for the engine: no answer begins before the engine has put out something, each
ends whole or with an error, and what nobody waits for leaves the engine.

vLLM 0.29 sends the head of a stream (status 200) before its request reaches the engine, so whatever fails then can only
be told inside the stream. Here the head waits for the first output. Until then an error has its true status: 502 when
the engine died or hung, on which the edge tries the request once on another replica, 504 when its time was over. After
that it is the stream's last event, in the form of the API that was called (`serving.replica.error_events`). An error is
told once: what vLLM itself has to say of it is left out.
"""

import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.names import GENERATING_PATHS
from serving.paging.inflight import DeadEngine, Exchange, exchange
from serving.replica.error_events import error_answer, error_event
from specs.errors import LearnwareError, NotReady

logger = logging.getLogger("ray.serve")

HEALTH_PATHS = frozenset({"/health", "/ping"})
BACKGROUND_PATH = "/v1/responses"
"""Path whose answer may be complete while its request goes on in the engine (`background`)."""
_SSE = b"text/event-stream"


class AnswerFailed(LearnwareError):
    """Raised for an answer that broke off for a reason unknown."""

    def __init__(self) -> None:
        super().__init__("The answer broke off inside the server. Try again.")


class Answering:
    """ASGI middleware (see the module). `failure` returns why the replica's engine cannot answer any more, None while
    it can."""

    def __init__(self, app: ASGIApp, *, failure: Callable[[], str | None] = lambda: None) -> None:
        self._app = app
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        failure = self._failure()
        if failure is not None and path in HEALTH_PATHS:
            unhealthy = NotReady(f"The engine of this replica is gone ({failure}); it is being replaced.")
            await error_answer(unhealthy, path)(scope, receive, send)
        elif path not in GENERATING_PATHS:
            await self._app(scope, receive, send)
        elif failure is not None:
            await error_answer(DeadEngine(failure), path)(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        running = Exchange()
        answer = _Answer(running, scope, receive, send, self._failure)
        token = exchange.set(running)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            if running.failure is None:
                logger.exception("a request to %s failed", scope["path"])
            if not await answer.fail(running.failure or error):
                raise
        else:
            await answer.end()
        finally:
            exchange.reset(token)
            running.complete = answer.complete and scope["path"] == BACKGROUND_PATH
            await running.abandon()


class _Answer:
    """One answer on its way to the client."""

    def __init__(
        self, running: Exchange, scope: Scope, receive: Receive, send: Send, failure: Callable[[], str | None]
    ) -> None:
        self._running, self._scope, self._receive, self._send = running, scope, receive, send
        self._failure = failure
        self._head: Message | None = None
        self._held: list[Message] = []
        self._flowing = False
        """Whether the head was sent."""
        self._events = 0
        self._ended = False
        """Whether the client has had all that it will get."""
        self.complete = False
        """Whether the application's answer was sent whole."""

    async def send(self, message: Message) -> None:
        """The ASGI `send` of the application."""
        if self._ended:
            return
        if self._running.failure is not None:
            await self.fail(self._running.failure)
            return
        if self._flowing:
            self._events += 1
            if not message.get("more_body", False):
                self._finish()
            await self._send(message)
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        await self._hold(message)

    async def _hold(self, message: Message) -> None:
        self._held.append(message)
        last = not message.get("more_body", False)
        if self._head is None or not (self._running.began or last):
            return
        if self._head["status"] >= 500 and (failure := self._failure()) is not None:
            await self.fail(DeadEngine(failure))  # vLLM noticed before anything of the request was in the engine
            return
        self._flowing = True
        self._events = len(self._held)
        if last:
            self._finish()
        head, held, self._held = self._head, self._held, []
        await self._send(head)
        for one in held:
            await self._send(one)

    def _finish(self) -> None:
        self.complete = self._ended = self._running.complete = True

    async def fail(self, error: Exception) -> bool:
        """Tells the client of the error, unless it has had its answer. Returns False when there is no way to tell it:
        what was begun is no stream of events, and has to break off."""
        if self._ended:
            return True
        self._ended = True
        path = self._scope["path"]
        if not self._flowing:
            self._held.clear()
            await error_answer(error, path)(self._scope, self._receive, self._send)
            return True
        if not self._is_stream():
            return False
        body = error_event(error, path, self._events)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
        return True

    async def end(self) -> None:
        """Looks after an answer whose application has returned: one without its end gets an error for it."""
        if not self._ended and not self._running.abandoned and (self._flowing or self._held):
            await self.fail(self._running.failure or AnswerFailed())

    def _is_stream(self) -> bool:
        headers: Any = self._head["headers"] if self._head is not None else ()
        return any(name.lower() == b"content-type" and value.startswith(_SSE) for name, value in headers)
