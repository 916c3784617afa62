"""Decisions wait in one bounded queue, and each one's time begins when it starts.

A decision is processor work of about a millisecond that runs in a thread. A burst of requests queues before the
threads; a request that waits there is not a slow decision. So the two are bounded apart: `max_wait_s` bounds the wait,
`deadline_s` the decision itself, from its start.

First come, first served. A newcomer is refused at once when the queue before it, at the measured pace, is longer than
it may wait; so every request in the queue can expect an answer in time, nobody waits only to be refused, and no work is
done for a request that has been given up. The other order, last come first, helps where the queue is too long for its
bound: it serves newcomers at the price of those who have waited most, and a queue cut at its end has none to give up. A
wait that outlasts the estimate ends at the bound all the same.

A refused client is told when to come back: at the measured pace, after the queue and after all who were refused before,
so that they don't come back together.

Work whose requester is gone (HAProxy hung up, or the deadline has passed) does not start if it waits, and stops at its
next look (`Check`) if it runs; its thread counts as busy until it has really stopped. (A client that hangs up is not
noticed: HAProxy 2.8 does not interrupt the script that asks the router. So the bound on the wait bounds that as well.)
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from specs.errors import Overloaded

T = TypeVar("T")

FIRST_GUESS_S = 0.002
"""Seconds that a decision is taken to last before any was measured: a conversation of a few turns."""

NEWEST_WEIGHT = 0.05
"""Weight of the latest decision in the mean duration: the last twenty or so count, so that a single long text does not
close the queue."""

LONGEST_RETRY_S = 30
"""The most seconds that a refused client is told to wait: the pace of half a minute from now is anybody's guess."""

Check = Callable[[], None]
"""Raises `Abandoned` once nobody waits for the result; for the work to call between its steps."""

Submit = Callable[[Callable[[], Any]], "asyncio.Future[Any]"]
"""Begins work elsewhere and returns a future of the event loop's."""


class Abandoned(Exception):
    """Raised inside a decision for which nobody waits any more."""


class DeadlinePassed(Exception):
    """A decision took longer than its deadline. `waited_s` is the time before it started."""

    def __init__(self, waited_s: float) -> None:
        super().__init__("the decision took longer than its deadline")
        self.waited_s = waited_s


class Decided(NamedTuple, Generic[T]):
    """A decision's result, and the seconds that it waited before it started."""

    result: T
    waited_s: float


class _Ticket(Generic[T]):
    """One decision on its way. The outcome may come before the work has ended: then the work is abandoned."""

    def __init__(self, work: Callable[[Check], T], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.outcome: asyncio.Future[Decided[T]] = loop.create_future()
        self.arrived = loop.time()
        self.timer: asyncio.TimerHandle | None = None
        self.wanted = True

    def check(self) -> None:
        """Raises Abandoned once nobody waits for the outcome."""
        if not self.wanted:
            raise Abandoned

    def fail(self, error: BaseException) -> None:
        """Ends the wait with an error, unless it has ended."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class DecisionQueue:
    """The queue and the threads of one router. It belongs to one event loop, whose clock is its clock."""

    def __init__(self, threads: int, max_wait_s: float, deadline_s: float, submit: Submit | None = None) -> None:
        """`submit` begins work at once when at most `threads` run; the default has that many threads."""
        self._threads = threads
        self._max_wait_s = max_wait_s
        self._deadline_s = deadline_s
        self._submit = submit or _in_threads(threads)
        self._free = threads
        self._waiting: OrderedDict[_Ticket[Any], None] = OrderedDict()
        self._mean_s = FIRST_GUESS_S
        self._promised = -math.inf
        """Time until which, at the measured pace, those who were refused make work."""

    @property
    def waiting(self) -> int:
        """Number of decisions that have not started."""
        return len(self._waiting)

    async def decide(self, work: Callable[[Check], T]) -> Decided[T]:
        """Runs `work` in a thread when its turn comes. When the caller is cancelled the work is abandoned.

        Raises:
            Overloaded: the queue is too long, or did not move; `work` has not started.
            DeadlinePassed: `work` took too long and is abandoned.
            Exception: whatever `work` raised.
        """
        loop = asyncio.get_running_loop()
        ticket = _Ticket(work, loop)
        if self._free:
            self._start(ticket, loop)
        else:
            self._line_up(ticket, loop)
        try:
            return await ticket.outcome
        finally:
            ticket.wanted = False
            self._waiting.pop(ticket, None)
            if ticket.timer is not None:
                ticket.timer.cancel()

    @property
    def _pace_s(self) -> float:
        """Seconds from one start to the next while the queue is not empty."""
        return self._mean_s / self._threads

    def _line_up(self, ticket: _Ticket[Any], loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting and (len(self._waiting) + 1) * self._pace_s > self._max_wait_s:
            raise self._refusal(ticket.arrived)
        self._waiting[ticket] = None
        ticket.timer = loop.call_later(self._max_wait_s, self._give_up, ticket, loop)

    def _give_up(self, ticket: _Ticket[Any], loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting.pop(ticket, ticket) is None:
            ticket.fail(self._refusal(loop.time()))

    def _refusal(self, now: float) -> Overloaded:
        pace = self._pace_s
        self._promised = max(self._promised, now + len(self._waiting) * pace) + pace
        seconds = min(max(math.ceil(self._promised - now), 1), LONGEST_RETRY_S)
        return Overloaded(
            f"The router has more requests to decide on than it can within {self._max_wait_s:g} s. "
            f"Try again in {seconds} s, or name a model: such requests are not held up.",
            seconds,
        )

    def _start(self, ticket: _Ticket[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._free -= 1
        if ticket.timer is not None:
            ticket.timer.cancel()
        started = loop.time()
        waited = started - ticket.arrived
        running = self._submit(lambda: ticket.work(ticket.check))
        ticket.timer = loop.call_later(self._deadline_s, self._abandon, ticket, running, waited)
        running.add_done_callback(lambda done: self._ended(ticket, done, started, waited, loop))

    def _abandon(self, ticket: _Ticket[Any], running: "asyncio.Future[Any]", waited: float) -> None:
        if not running.done():  # a busy loop may see both at once
            ticket.fail(DeadlinePassed(waited))

    def _ended(
        self,
        ticket: _Ticket[T],
        done: "asyncio.Future[T]",
        started: float,
        waited: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # At most the deadline: work past it has been given up, and the wait is bounded without an estimate, too.
        lasted = min(loop.time() - started, self._deadline_s)
        self._mean_s += NEWEST_WEIGHT * (lasted - self._mean_s)
        self._free += 1
        if done.cancelled():  # the loop ends
            ticket.outcome.cancel()
        elif error := done.exception():  # also where nobody waits for it any more: then asyncio does not report it
            ticket.fail(error)
        elif not ticket.outcome.done():
            ticket.outcome.set_result(Decided(done.result(), waited))
        if self._waiting:
            following, _ = self._waiting.popitem(last=False)
            self._start(following, loop)


def _in_threads(threads: int) -> Submit:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decide")

    def submit(work: Callable[[], Any]) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(pool, work)

    return submit
