"""Fair shares: what each tenant of one engine has received, in tokens, and the order that follows from it.

Each tenant has a counter of the tokens that it was served, divided by its weight; among requests that may run, those of
the lowest counter run first. These are the virtual token counters of Sheng et al. ("Fairness in Serving Large Language
Models", OSDI 2024), with the virtual time of start-time fair queueing (Goyal et al., SIGCOMM 1996): it is the largest
counter at which a request was admitted, never moves back, and lifts the counter of a tenant that comes back from being
idle. So nobody saves up service by not asking for it.

A request is charged when it is admitted, by an estimate, and its tenant's counter is corrected when it ends. A counter
never falls while its tenant waits: what was charged too much is taken off the next charges. That is what lets the
heaps of waiting requests correct their entries only as these come up (`serving.paging.lanes.Ranking`).
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

HALF_LIFE_S = 30.0
"""Seconds in which what is remembered of a tenant's requests at once halves. One that was alone is remembered for so
long after its end: a person who chats has read the answer and asks again."""

KEPT = 256
"""Number of tenants that are remembered in any case, with the mean wait of their requests."""


@dataclass(eq=False, slots=True)
class Account:
    """One tenant: what it received, and what it has in the engine."""

    name: Hashable
    weight: float
    service: float
    """The counter: tokens charged, divided by the weight, and lifted to the virtual time after being idle."""
    credit: float = 0.0
    """Charges that were too high and are not taken off yet, as part of the counter."""
    waiting: int = 0
    running: int = 0
    mean_wait: float = 0.0
    """Mean wait in seconds of its requests admitted lately."""
    admitted: int = 0
    aged_since: float = float("-inf")
    """Its requests that wait since before this time have aged out."""
    noted_in: int = 0
    """Number of the step in which `aged_since` was last looked at."""
    most_at_once: float = 0.0
    """Most requests that it had in the engine at once, as of `most_noted`; it halves every `HALF_LIFE_S`."""
    most_noted: float = 0.0

    def at_once(self, now: float) -> int:
        """Returns how many requests it had in the engine at once lately, waiting or running; 0 after a long time."""
        return max(self.waiting + self.running, round(self._faded(now)))

    def note_at_once(self, now: float) -> None:
        """Takes note of the requests that it has now."""
        self.most_at_once, self.most_noted = max(float(self.waiting + self.running), self._faded(now)), now

    def _faded(self, now: float) -> float:
        # a step notes its requests' ends as of its start, and some may have come since then
        return self.most_at_once * 0.5 ** (max(0.0, now - self.most_noted) / HALF_LIFE_S)

    def charge(self, tokens: float) -> None:
        """Adds tokens (which may be negative) to the counter, after the credit is used up."""
        owed = tokens / self.weight - self.credit
        self.service += max(0.0, owed)
        self.credit = max(0.0, -owed)

    def settle(self) -> None:
        """Takes the credit off the counter. To be called while none of the tenant's requests waits, since no heap holds
        the counter then."""
        self.service -= self.credit
        self.credit = 0.0


class Shares(Generic[T]):
    """The accounts of the tenants of one engine, its virtual time, and what its admitted requests were charged."""

    def __init__(self) -> None:
        self.virtual_time = 0.0
        """Largest counter at which a request was admitted, less its head start; never moves back."""
        self.accounts: dict[Hashable, Account] = {}
        self._charged: dict[T, tuple[Account, float]] = {}
        self._waiting = 0
        self._largest = 0.0
        self._limit = KEPT

    @property
    def charged(self) -> int:
        """Returns the number of requests that were admitted and have not ended."""
        return len(self._charged)

    def arrives(self, tenant: Hashable, weight: float, now: float) -> Account:
        """Counts a request of the tenant that waits since `now` and returns its account."""
        account = self.accounts.get(tenant)
        if account is None:
            self._forget()
            account = self.accounts[tenant] = Account(tenant, weight, self.virtual_time)
        account.weight = weight
        if not account.waiting:
            account.service = max(account.service, self.virtual_time)
        account.waiting += 1
        account.note_at_once(now)
        self._waiting += 1
        return account

    def leaves(self, account: Account) -> None:
        """Counts a request that waits no longer."""
        account.waiting -= 1
        self._waiting -= 1
        if not account.waiting:
            account.settle()
        self._note_idle()

    def admit(self, item: T, account: Account, cost: float, head_start: float) -> None:
        """Charges an admitted request `cost` tokens; one that was taken back and is admitted again was charged before.

        A request that was put back (a negative head start) does not move the virtual time beyond its tenant's counter:
        otherwise it would make all that came before it equal.
        """
        if item in self._charged:
            return
        self.virtual_time = max(self.virtual_time, account.service - max(0.0, head_start))
        account.charge(cost)
        account.running += 1
        self._charged[item] = account, cost
        self._largest = max(self._largest, account.service)

    def finished(self, item: T, real_cost: float | None, now: float) -> bool:
        """Corrects the charge of a request that ended; returns False for one that was never admitted."""
        account, cost = self._charged.pop(item, (None, 0.0))
        if account is None:
            return False
        account.note_at_once(now)
        account.running -= 1
        if real_cost is not None:
            account.charge(real_cost - cost)
            self._largest = max(self._largest, account.service)
        if not account.waiting:
            account.settle()
        self._note_idle()
        return True

    def _note_idle(self) -> None:
        if not self._waiting and not self._charged:  # all are equal again
            self.virtual_time = max(self.virtual_time, self._largest)

    def _forget(self) -> None:
        """Forgets, when there are many, the tenants that would be lifted to the virtual time if they came back."""
        if len(self.accounts) < self._limit:
            return
        self.accounts = {
            tenant: account
            for tenant, account in self.accounts.items()
            if account.waiting or account.running or account.service > self.virtual_time
        }
        self._limit = max(KEPT, 2 * len(self.accounts))

    def check_integrity(self) -> None:
        """Checks the accounts against each other.

        Raises:
            AssertionError: they disagree.
        """
        assert self._waiting == sum(account.waiting for account in self.accounts.values())
        running: dict[Hashable, int] = {}
        for account, _ in self._charged.values():
            assert self.accounts[account.name] is account
            running[account.name] = running.get(account.name, 0) + 1
        for name, account in self.accounts.items():
            assert account.running == running.get(name, 0)
            assert account.credit >= 0.0
            assert account.credit == 0.0 or account.waiting
