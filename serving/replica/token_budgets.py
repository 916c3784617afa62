"""The tokens a minute of each tenant on a replica: a token bucket that holds one minute's worth.

A request is charged an estimate when it is admitted and what it really took at the end. The estimate of a request for
more than a minute's worth is a minute's worth, so that it can be admitted at all; what it takes beyond that is owed,
and the tenant waits until its bucket is above zero again. So in the long run no tenant gets more than its limit.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from specs.errors import RateLimited

MINUTE_S = 60.0
MOST_BUCKETS = 10_000
"""Buckets from which on those that are full again are forgotten."""


class _Bucket(NamedTuple):
    """The tokens of `limit` that were left at a time, below zero when some are owed."""

    left: float
    at: float
    limit: int

    def now(self, now: float) -> float:
        """Returns the tokens that are left now."""
        return min(float(self.limit), self.left + (now - self.at) * self.limit / MINUTE_S)


class TokenBudgets:
    """The buckets of all tenants of one replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def charge(self, name: str, limit: int, estimate: int) -> int:
        """Charges a request before it begins. Returns what was charged, which `correct` is to be told.

        Args:
            name: the tenant.
            limit: its tokens a minute.
            estimate: tokens that the request is likely to take.

        Raises:
            RateLimited: the tenant has not that many left.
        """
        charged, left = min(estimate, limit), self._left(name, limit)
        if left < charged:
            wait = (charged - left) * MINUTE_S / limit
            raise RateLimited(
                f"The limit of {limit} tokens a minute is reached: {max(0, int(left))} are left, and this request is "
                f"taken to need {charged}. Try again in {wait:.1f} s.",
                max(1, math.ceil(wait)),
            )
        self._buckets[name] = _Bucket(left - charged, self._clock(), limit)
        if len(self._buckets) > MOST_BUCKETS:
            self._forget_full()
        return charged

    def correct(self, name: str, limit: int, charged: int, taken: int) -> None:
        """Replaces what was charged for a request by what it has taken."""
        left = self._left(name, limit) + charged - taken
        self._buckets[name] = _Bucket(min(left, float(limit)), self._clock(), limit)

    def headers(self, name: str, limit: int) -> list[tuple[bytes, bytes]]:
        """Returns OpenAI's headers for a limit on tokens: the limit, what remains of it, and the time until all of it
        is there again."""
        left = self._left(name, limit)
        return [
            (b"x-ratelimit-limit-tokens", b"%d" % limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, int(left))),
            (b"x-ratelimit-reset-tokens", duration((limit - left) * MINUTE_S / limit).encode()),
        ]

    def _left(self, name: str, limit: int) -> float:
        bucket = self._buckets.get(name)
        return float(limit) if bucket is None else bucket._replace(limit=limit).now(self._clock())

    def _forget_full(self) -> None:
        """Forgets the buckets that are full again."""
        now = self._clock()
        self._buckets = {name: one for name, one in self._buckets.items() if one.now(now) < one.limit}


def duration(seconds: float) -> str:
    """Returns a duration as OpenAI writes it: `320ms`, `8.64s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 2), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
