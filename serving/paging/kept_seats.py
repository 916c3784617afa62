"""Seats of the batch that are kept for tenants who have been there lately and hold less than their share.

Fair order alone lets a request come next; it still waits until one of the running requests ends, and its first step
computes the prompts of all others that begin with it. So a tenant that holds its *share* of the seats (those of the
batch, divided by weight among the tenants who have been there lately) is held back in two ways while another one holds
less:

- up to K seats stay free, as many as such tenants had requests at once lately, if they have received less than it has;
- it begins no request in a step in which many have begun: `seats // STEP_PART`, or twice as many as in a usual step.

K is 1 of eight seats and `seats // KEPT_PART` of many. Nobody is passed: a request that is held back comes next all the
same, in the next step or as soon as one more seat is free, which is when the first of at least `seats - K` running
requests ends. A tenant below its share is never held back, one alone neither, and fewer than `STEP_PART` seats have
none to keep.
"""

from collections.abc import Collection
from typing import Any

from serving.paging.fair_share import Account, Shares

KEPT_PART = 32
"""One seat of so many may be kept (one at least), which bounds what keeping costs while nobody comes for them: a
thirty-second of the seats of a large batch. Of eight seats it is one, and less of the tokens, since steps of a smaller
batch are shorter."""

STEP_PART = 8
"""One of so many seats may be taken in each step, however long the answers are."""

MEMORY = 32
"""Number of steps over which the requests that begin in a step are averaged exponentially: with short answers many
have to begin in each, or seats would stay empty."""


class KeptSeats:
    """The seats of one engine that are kept; without a number of seats (None) there are none."""

    def __init__(self, shares: Shares[Any], seats: int | None) -> None:
        self._shares = shares
        self._seats = seats or 0
        self.most = max(1, self._seats // KEPT_PART) if self._seats >= STEP_PART else 0
        """The largest number of seats that are kept."""
        self._now = 0.0
        self._begun = 0
        self._usually_begin = 0.0
        self._present: Collection[Account] | None = None

    def begin_step(self, now: float) -> None:
        """Takes note of the time; no request has begun in this step."""
        self._usually_begin += (self._begun - self._usually_begin) / MEMORY
        self._now, self._begun, self._present = now, 0, None

    def note_begun(self) -> None:
        """Counts a request that begins in this step."""
        self._begun += 1

    def hold_back(self, account: Account, value: float) -> bool:
        """Returns whether a request of this tenant, with this value in the order, has to leave a free seat alone for
        now."""
        if not self.most or len(self._shares.accounts) < 2:
            return False
        free = self._seats - self._shares.charged
        many_begin = self._begun >= max(self._seats // STEP_PART, round(2 * self._usually_begin))
        if free > self.most and not many_begin:
            return False
        if self._present is None:
            self._present = [one for one in self._shares.accounts.values() if one.at_once(self._now)]
        weights = sum(one.weight for one in self._present)
        if self._room(account, weights) >= 1:
            return False
        below = [(one, room) for one in self._present if (room := self._room(one, weights)) >= 1]
        if below and many_begin:
            return True
        wanted = sum(
            min(room, max(0, one.at_once(self._now) - one.running)) for one, room in below if self._counter(one) < value
        )
        return free <= wanted

    def _counter(self, account: Account) -> float:
        """Returns the tenant's counter, as it is lifted if its next request comes now."""
        return account.service if account.waiting else max(account.service, self._shares.virtual_time)

    def _room(self, account: Account, weights: float) -> int:
        """Returns how many more requests the tenant may run until it holds its share, which is one seat at least."""
        return int(max(1.0, self._seats * account.weight / weights)) - account.running
