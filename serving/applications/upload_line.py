"""Uploads to the market, one by one: who may upload, who waits, and what a client that hangs up leaves behind.

At most `ADMITTED` uploads are let in: their bodies are written to disk side by side, so that a slow client holds up
nobody, and then one after the other is checked and tried. A further one is refused before its body is read.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from specs.errors import InvalidInput, MarketFull

ADMITTED = 3
"""The most uploads at a time: one that is tried, and two that are written to disk or wait. More would only wait longer:
a trial takes from some seconds to two minutes."""
TURN_S = 60.0
"""Seconds that an upload waits for the one before it."""

Result = TypeVar("Result")


class UploadLine:
    """The line of uploads. It belongs to one event loop."""

    def __init__(self, admitted: int = ADMITTED, turn_s: float = TURN_S) -> None:
        self._admitted = admitted
        self._turn_s = turn_s
        self._turn = asyncio.Lock()
        self._inside = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Lets an upload in. Raises MarketFull when as many as may be are inside."""
        if self._inside >= self._admitted:
            raise MarketFull(
                f"{self._inside} uploads are under way, as many as this market takes at a time; send it again later."
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until no other upload is checked or tried. Raises MarketFull when that takes too long."""
        try:
            await asyncio.wait_for(self._turn.acquire(), self._turn_s)
        except TimeoutError:
            raise MarketFull(
                f"another upload has been checked and tried for more than {self._turn_s:g} s; send this one later."
            ) from None
        try:
            yield
        finally:
            self._turn.release()


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Does the work for a request whose body has been read, and cancels it when the client hangs up, or when this call
    is cancelled. Returns only after the work has ended, however it did.

    Raises:
        InvalidInput: the client hung up.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise InvalidInput("The client hung up before the upload was tried to its end; nothing of it is kept.")
    return task.result()


async def in_thread(
    pool: Executor, function: Callable[[], Result], give_up: Callable[[], object] | None = None
) -> Result:
    """Runs a function in a thread of `pool`. A thread cannot be cancelled: where this call is, `give_up` is called to
    make it end soon, and its end is waited for."""
    return await _ended(pool.submit(function), give_up)


@asynccontextmanager
async def entered_in_thread(
    pool: Executor, manager: AbstractContextManager[Result], give_up: Callable[[], object] | None = None
) -> AsyncIterator[Result]:
    """Enters and leaves a blocking context manager in threads of `pool`, as `in_thread` runs functions; one that was
    entered is left in any case."""
    entering = pool.submit(manager.__enter__)
    try:
        result = await _ended(entering, give_up)
    except asyncio.CancelledError:
        if entering.exception() is None:
            await asyncio.shield(asyncio.wrap_future(pool.submit(manager.__exit__, None, None, None)))
        raise
    try:
        yield result
    finally:
        await asyncio.shield(asyncio.wrap_future(pool.submit(manager.__exit__, None, None, None)))


async def _ended(running: "Future[Result]", give_up: Callable[[], object] | None) -> Result:
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if give_up is not None:
            give_up()
        await asyncio.wait({future})
        future.exception()  # it has been seen
        raise


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
