"""The places of a replica: how many sequences it holds at most, those that run and those that wait, and who is refused
when there are too many.

A request takes one place for each sequence that it asks for (its prompts times its choices), from its admission until
the engine is done with it. The places in use are counted here, exactly; of the scheduler's report (up to a quarter of
a second old) only the width of the batch and the age of the longest wait are used. A place outside the batch waits.

A replica is full when more than `most_waiting` would wait, or when something has waited for longer than `max_wait_s`.
Then a tenant that has its share of the places, or more, is refused; one that has less is still admitted, as long as no
more than twice the bound wait in all. So a tenant that floods a replica cannot keep the others out, and who is alone
may use all of it.

Who is refused is told when to come again. Each refusal takes the next turn of its tenant: a burst is told to come one
after the other, at the rate at which this replica has served lately, and not all at once.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from serving.access.tenant import Tenant
from specs.errors import InvalidInput, RateLimited

SERVED_WINDOW_S = 30.0
"""Seconds of work, idle times left out, over which the recent rate of service is taken."""
LONGEST_RETRY_S = 60
"""Most seconds that a refused client is told to stay away: what happens later nobody can estimate."""
MOST_TOLD = 1000
"""Tenants whose last turn is remembered; beyond them those whose turn has passed are forgotten."""


class Places:
    """The places of one replica."""

    def __init__(
        self,
        batch: int,
        most_waiting: int,
        max_wait_s: float,
        report: Callable[[], Mapping[str, Any] | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins with all places free.

        Args:
            batch: the most sequences that run at once (vLLM's `max_num_seqs`).
            most_waiting: the most that may wait beside them.
            max_wait_s: age of the longest wait, seconds, from which the replica counts as full.
            report: returns the newest report of the scheduler (`serving.paging.scheduler`), None where there is none.
            clock: monotonic time in seconds.
        """
        self._batch, self._most_waiting, self._max_wait_s = batch, most_waiting, max_wait_s
        self._report = report
        self._clock = clock
        self._used: Counter[str] = Counter()
        self._weights: dict[str, float] = {}
        self._total = 0
        self._worked_s = 0.0  # seconds with any place in use, up to `_noted_at`
        self._noted_at = clock()
        self._served: deque[tuple[float, int]] = deque()  # when, in seconds of work, and how many
        self._told: dict[str, float] = {}  # by tenant, the last turn that a refused request was given, by the clock

    @property
    def used(self) -> int:
        """Number of places in use."""
        return self._total

    @property
    def waiting(self) -> int:
        """Number of sequences that wait now."""
        return max(0, self._total - self._width())

    def check(self, tenant: Tenant, count: int = 1) -> None:
        """Checks whether a request of `tenant` may take `count` places now.

        Raises:
            InvalidInput: the replica never has that many.
            RateLimited: it has not that many now.
        """
        total = self._batch + self._most_waiting
        if count > total:
            raise InvalidInput(
                f"The request asks for {count} answers (prompts times n), and a replica holds {total} at most "
                "(engine.max_num_seqs and limits.max_waiting). "
                "Send fewer prompts, or a smaller n."
            )
        room = self._width() + self._most_waiting
        over = self._total + count - room
        aged = self._total > 0 and self._oldest_wait_s() > self._max_wait_s
        if over <= 0 and not aged:
            return
        share, own = self._share(tenant), self._used[tenant.name]
        if over > 0 and (own + count > share * room or over > self._most_waiting):
            raise RateLimited(
                f"{self.waiting} requests wait on this replica, as many as it takes. Try again later.",
                self._turn(tenant, count, over),
            )
        if aged and own >= share * self._total:
            raise RateLimited(
                f"Requests wait for longer than {self._max_wait_s:g} s on this replica. Try again later.",
                self._turn(tenant, count, max(1, self.waiting - int(self._rate() * self._max_wait_s))),
            )

    def take(self, tenant: Tenant, count: int) -> None:
        """Takes places for a request that `check` let pass."""
        self._note_work()
        self._used[tenant.name] += count
        self._weights[tenant.name] = tenant.weight
        self._total += count

    def give_back(self, tenant: Tenant, count: int) -> None:
        """Frees the places of a request that is done."""
        self._note_work()
        self._served.append((self._worked_s, count))
        self._total -= count
        self._used[tenant.name] -= count
        if not self._used[tenant.name]:
            del self._used[tenant.name], self._weights[tenant.name]

    def _width(self) -> int:
        """Returns how many sequences run at once now. While the scheduler says that some wait, the batch is as full as
        adapter slots and KV cache allow; otherwise there is room up to `batch`."""
        report = self._report()
        if report is None or not sum(report.get("waiting", {}).values()):
            return self._batch
        return min(self._batch, int(report["running"]))

    def _oldest_wait_s(self) -> float:
        report = self._report()
        return 0.0 if report is None else float(report.get("oldest_wait_s") or 0.0)

    def _share(self, tenant: Tenant) -> float:
        """Returns the part of the places that is the tenant's among those that use some."""
        others = sum(weight for name, weight in self._weights.items() if name != tenant.name)
        return tenant.weight / (tenant.weight + others)

    def _note_work(self) -> None:
        """Adds the time since the last note to the seconds of work, if any place was in use."""
        now = self._clock()
        if self._total:
            self._worked_s += now - self._noted_at
        self._noted_at = now

    def _rate(self) -> float:
        """Returns the sequences served a second, over the last `SERVED_WINDOW_S` of work. One more than were served is
        counted: while none was, the first is taken to need as long again."""
        self._note_work()
        while self._served and self._served[0][0] < self._worked_s - SERVED_WINDOW_S:
            self._served.popleft()
        return (sum(count for _, count in self._served) + 1) / max(min(self._worked_s, SERVED_WINDOW_S), 1e-3)

    def _turn(self, tenant: Tenant, count: int, before: int) -> int:
        """Returns the whole seconds after which a refused request for `count` places should come again: when `before`
        sequences are likely to be served, and after those of its tenant that were refused before it."""
        now, rate = self._clock(), self._rate()
        turn = now + before / rate
        last = self._told.get(tenant.name, now)
        if last > now:
            turn = max(turn, last + count / (rate * self._share(tenant)))
        turn = min(turn, now + LONGEST_RETRY_S)
        if len(self._told) >= MOST_TOLD:
            self._told = {name: told for name, told in self._told.items() if told > now}
        self._told[tenant.name] = turn
        return max(1, math.ceil(turn - now))
