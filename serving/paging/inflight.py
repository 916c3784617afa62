"""Requests in flight in the engine, and the HTTP exchange that each belongs to.

A client that hangs up, a time limit and a dead engine all end requests from outside. vLLM 0.29 leaves that to whoever
iterates over `AsyncLLM.generate`, and when a client of an answer that is not streamed hangs up, nobody does: Ray
cancels the task of the HTTP request, and the task in which vLLM's handler waits for the engine
(`with_cancellation`) goes on. So each request in flight knows the task that waits for its next output. Cancelling that
task makes vLLM abort the request in the engine.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from contextvars import ContextVar
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple, Self

from vllm.exceptions import GracefulHTTPError
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from specs.errors import AnswerTimeout, EngineGone

ABANDON_S = 1.0
"""Seconds that the end of an HTTP exchange waits for its requests to leave the engine; they are aborted by then, and
only a front end that is very busy takes longer to notice."""


class TimeLimits(NamedTuple):
    """How long a request may take."""

    first_token_s: float = float("inf")
    """Seconds until its first token."""
    between_tokens_s: float = float("inf")
    """Seconds between two tokens."""


class DeadEngine(EngineGone, GracefulHTTPError):
    """Raised to whoever waits for an engine that died or hung. vLLM's handlers, too, answer it with status 502."""

    def __init__(self, reason: str) -> None:
        message = f"The engine that answered this request is gone ({reason}). Try again."
        GracefulHTTPError.__init__(self, message, HTTPStatus.BAD_GATEWAY)


class LateAnswer(AnswerTimeout, GracefulHTTPError):
    """Raised when a request has exceeded a time limit. vLLM's handlers, too, answer it with status 504."""

    def __init__(self, message: str) -> None:
        GracefulHTTPError.__init__(self, message, HTTPStatus.GATEWAY_TIMEOUT)


class Exchange:
    """An HTTP request and its answer, as far as the engine is concerned."""

    def __init__(self) -> None:
        self.began = False
        """Whether the engine has put out anything for it."""
        self.failure: Exception | None = None
        """The error that ended one of its requests in the engine."""
        self.complete = False
        """Whether its answer was given whole. What it then has in the engine is meant to go on (a response in the
        background)."""
        self.abandoned = False
        """Whether nobody waits for its answer any more."""
        self.inflight: set[Inflight] = set()
        self._emptied: asyncio.Future[None] | None = None

    async def abandon(self) -> None:
        """Ends all that it has in the engine, running, waiting or about to enter, unless its answer is complete.
        Returns when nothing is left, or after `ABANDON_S`."""
        if self.complete:
            return
        self.abandoned = True
        if not self.inflight:
            return
        self._emptied = asyncio.get_running_loop().create_future()
        for one in tuple(self.inflight):
            one.abandon()
        await asyncio.wait([self._emptied], timeout=ABANDON_S)

    def left(self, one: "Inflight") -> None:
        """Notes that a request is no longer in flight."""
        self.inflight.discard(one)
        if not self.inflight and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)


exchange: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
"""The HTTP exchange that the running task serves (`serving.replica.answering` sets it; tasks that it starts inherit
it), None outside of one."""


class Inflight:
    """A request in flight, and a context around its whole stay in the engine, from before its adapter is leased.

    The generator that passes its outputs on calls `puts_out` before it yields one and `resumes` after. Time counts only
    between the two last: a consumer that is slow is not the engine's fault.
    """

    __slots__ = ("_between_s", "_closing", "_exchange", "_reason", "_stack", "_table", "_task", "began", "deadline")

    def __init__(
        self, table: set["Inflight"], stack: AsyncExitStack, first_s: float, between_s: float, owner: Exchange | None
    ) -> None:
        """Makes one that is entered into `table` while the context lasts; `stack` holds all that it has. Its first
        output must come within `first_s` seconds, each further one within `between_s`."""
        self._table, self._stack = table, stack
        self._between_s = between_s
        self._exchange = owner if owner is not None else Exchange()
        self._task: asyncio.Task[Any] | None = asyncio.current_task()
        self._reason: Exception | None = None
        self._closing: asyncio.Task[None] | None = None
        self.began = False
        self.deadline = time.monotonic() + first_s

    def __enter__(self) -> Self:
        if self._exchange.abandoned:
            raise asyncio.CancelledError
        self._table.add(self)
        self._exchange.inflight.add(self)
        return self

    def puts_out(self) -> None:
        """Notes that an output has come and goes to the consumer."""
        self._task = None
        self.began = self._exchange.began = True

    def resumes(self) -> None:
        """Notes that the running task waits for the next output."""
        self._task = asyncio.current_task()
        self.deadline = time.monotonic() + self._between_s

    def end(self, reason: Exception) -> None:
        """Ends it: whoever waits for its next output gets `reason` instead."""
        if self._task is None:
            self._exchange.failure = reason
            self._close()
        elif self._reason is None:
            self._reason = reason
            self._task.cancel()

    def expire(self, now: float) -> None:
        """Ends it if its time is over; `now` is monotonic time in seconds."""
        if self._task is not None and now > self.deadline:
            part = "next token of the answer" if self.began else "first token"
            self.end(LateAnswer(f"The {part} did not come within the time that this server allows. Try again."))

    def abandon(self) -> None:
        """Ends it because nobody waits for its answer any more."""
        if self._task is None:
            self._close()
        else:
            self._task.cancel()

    def _close(self) -> None:
        # the generator stands at its `yield`, so another task may close what it holds
        if self._closing is None:
            self._closing = asyncio.create_task(self._stack.aclose())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the table. Other errors than a cancellation of the consumer's are noted in the exchange.

        Raises:
            DeadEngine: vLLM says that the engine is dead.
            Exception: the reason for which it was ended.
        """
        self._table.discard(self)
        self._exchange.left(self)
        reason = self._reason
        if reason is not None and kind is not GeneratorExit:
            if self._task is not None:
                self._task.uncancel()
        elif isinstance(error, EngineDeadError):
            reason = DeadEngine("it died")
        elif isinstance(error, Exception):
            self._exchange.failure = error
        if reason is not None:
            self._exchange.failure = reason
            raise reason from None


def seconds_allowed(limits: TimeLimits, params: Any) -> float:
    """Returns within how many seconds a request's first output must come. `params` are vLLM's sampling or pooling
    parameters: an answer that comes as one output may take as long as that of a stream with all its tokens."""
    if getattr(params, "output_kind", None) is not RequestOutputKind.FINAL_ONLY:
        return limits.first_token_s
    tokens = getattr(params, "max_tokens", None)
    return limits.first_token_s + limits.between_tokens_s * (float("inf") if tokens is None else tokens)


def parameters_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns the sampling or pooling parameters of a call of `AsyncLLM.generate` or `encode`, None without any."""
    for name in ("sampling_params", "pooling_params"):
        if name in kwargs:
            return kwargs[name]
    return args[1] if len(args) > 1 else None
