"""The progress of an upload as server-sent events, for clients that ask for them (`Accept: text/event-stream`).

    event: received   {"bytes": …}                     the body is on disk
    event: checked    {"id", "version"}                its files are whole and fit this stack
    event: tried      {"notes": […]}                   an engine has answered with it
    event: measured   {"off_task": …}                  what it does off its task is known and kept with it
    event: served     the learnware, as the plain answer has it
    event: refused    {"status", "error": {…}}         instead of what would have come next

The first event is sent once the body has arrived: what is refused before has the status and the error object that it
has without events. Between events a comment shows every few seconds that the connection stands.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.openai_errors import error_content
from specs.errors import LearnwareError

logger = logging.getLogger("ray.serve")

MEDIA_TYPE = "text/event-stream"
"""Content type of server-sent events."""
SIGN_OF_LIFE_S = 5.0
"""Seconds without an event after which a comment is sent: less than any proxy on the way waits for."""
_COMMENT = b": still at it\n\n"

Note = Callable[[str, Mapping[str, Any]], None]
"""Takes the name of a stage that an upload has passed, and what is to be said of it. It never blocks."""
Work = Callable[[Note], Awaitable[Mapping[str, Any]]]
"""Does the work of an upload, notes each stage, and returns the description of the learnware."""


def no_note(_stage: str, _said: Mapping[str, Any]) -> None:
    """Tells nobody: for uploads whose client waits for the one answer."""


def wants_events(request: Request) -> bool:
    """Returns whether a request asks for events by its Accept header."""
    kinds = (item.partition(";")[0].strip().lower() for item in request.headers.get("accept", "").split(","))
    return MEDIA_TYPE in kinds


class EventAnswer(Response):
    """The answer to an upload: its events, as they come. An error before the first event is raised, and so answered as
    any other."""

    def __init__(self, work: Work, last: str, sign_of_life_s: float = SIGN_OF_LIFE_S) -> None:
        """Makes the answer; `last` is the name of the event that brings what `work` returns."""
        super().__init__(None, media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-content-type-options"] = "nosniff"
        self._work = work
        self._last = last
        self._sign_of_life_s = sign_of_life_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (the work reads it)
        """Does the work and sends its events. When this call is cancelled, so is the work, and its end is waited
        for."""
        events = _Events()
        work = asyncio.ensure_future(self._work(events.note))
        work.add_done_callback(events.wake)
        started = False
        try:
            async for part in self._parts(work, events):
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                await send({"type": "http.response.body", "body": part, "more_body": True})
            final = self._final(work, scope["path"], started)
        finally:
            if not work.done():
                work.cancel()
                with suppress(BaseException):
                    await asyncio.wait({work})
        if not started:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": final})

    async def _parts(self, work: "asyncio.Future[Any]", events: "_Events") -> AsyncIterator[bytes]:
        """Yields events as they are noted, and comments between them once there was one, until the work has ended."""
        begun = False
        while True:
            while events.noted:
                begun = True
                yield events.noted.popleft()
            if work.done():
                return
            try:
                await asyncio.wait_for(events.news(), self._sign_of_life_s)
            except TimeoutError:
                if begun:
                    yield _COMMENT

    def _final(self, work: "asyncio.Future[Mapping[str, Any]]", path: str, started: bool) -> bytes:
        try:
            return _event(self._last, work.result())
        except Exception as failure:
            if not started:
                raise
            error = failure
            if not isinstance(error, LearnwareError):
                logger.exception("an upload failed")
                error = LearnwareError("Something failed inside the server.")
            content = error_content(path, error.status, str(error), error.type, error.code)
            return _event("refused", {"status": error.status, **content})


class _Events:
    """Events that wait to be sent."""

    def __init__(self) -> None:
        self.noted: deque[bytes] = deque()
        self._news = asyncio.Event()

    def note(self, stage: str, said: Mapping[str, Any]) -> None:
        self.noted.append(_event(stage, said))
        self._news.set()

    def wake(self, _ended: object) -> None:
        self._news.set()

    async def news(self) -> None:
        await self._news.wait()
        self._news.clear()


def _event(name: str, said: Mapping[str, Any]) -> bytes:
    # JSON has no line breaks outside of its strings, and inside they are escaped: one line of data
    return f"event: {name}\ndata: {json.dumps(said, ensure_ascii=False)}\n\n".encode()
