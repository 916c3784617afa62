"""The waiting requests of one engine, by tenant and adapter, and the order in which they run.

An engine has S adapter slots; a batch holds requests of at most S adapters. An adapter is *active* while a request of
it runs, *resident* while it holds a slot. Requests without an adapter need no slot.

**Order.** Among the requests that may run now, those of the tenant that has received least come first
(`serving.paging.fair_share`: a counter of tokens by weight; a request's head start is taken off it). Among the requests
of one tenant those that have aged out come first, oldest first, then those whose adapter is active or resident, oldest
first, then the oldest of all. So running adapters are filled up before another one is loaded, and an adapter that is
loaded serves all that waits for it. Within one tenant, adapter and head start the order of arrival is kept. Requests of
an adapter that is not active may run only while fewer than S are. A request that the engine takes back, to preempt it,
counts as one of the tenant that has received least, and as older than all others; it is not charged again.

**Kept seats.** The first request in this order is held back for a while, and all after it, if its tenant holds its
share of the batch and another one, which holds less, is here or was lately: so that the other one's next request finds
a seat, and a step without many other prompts (`serving.paging.kept_seats`).

**Fairness.** While two tenants f and g both have a request that may run, whenever one is admitted, the tokens that they
are charged, divided by their weights, differ by at most c_f / w_f + c_g / w_g, c being the largest charge of a request;
however many requests either sends, and for whatever adapters. A tenant whose requests all wait for a slot falls behind
by what the others get until it has one (see below), and is then served before them until it has caught up. A tenant
that was idle gains nothing by it. With a head start of h tokens, a tenant gets at most h more than without, beside
tenants that wait all the time; the requests of one tenant with a smaller head start come after all with a larger one.
Charges are estimates until a request ends; what they differ from its tokens comes on top of the bound while it runs.

**Ageing.** Preference for active adapters alone starves: S adapters that always have work never free a slot. A request
has aged out when it has waited longer than `max(patience, AGE_FACTOR · W)`, W being the mean wait of its tenant's
requests admitted lately: patience grows with the load that a tenant makes, or under saturation everything would have
aged out and nothing could be preferred. While a tenant is *behind*, that is, others were admitted that had received
more than it has, its requests have aged out after `patience` already. Ageing does not go before fairness: an old
request passes other requests of its tenant, and those of tenants that have received more. When a request has aged out,
its adapter is not active, and no slot is free, it gets the next slot that becomes free. If none does for as long as a
request usually runs, one active adapter is *drained*: nothing that ranks after the aged request is admitted to it, so
it ends when its running requests do. (Draining at once would cost more: the requests that it holds back need a slot
again later.) At most half the slots (at least one) drain at a time, so that the others keep the batch full, and only
for the `serving.paging.lanes.LANES` tenants that have received least of those that wait for a slot.

**Guarantee.** Let R be the longest time that an admitted request runs, and a step. A request that has aged out is
admitted within (b + 1) · 2R, b being the number of requests that are admitted while they rank before it: older ones of
its tenant with its head start or a larger one that still wait, whatever arrives after it; and of each other tenant at
most what brings that tenant's counter up to the counter of its own, and one more. The first of them either has an
active adapter, and takes the next free seat in the batch that is not kept, or after at most R an adapter drains for it
and nothing else, which takes at most R. With S busy adapters and one cold request beside them b is 0, so its wait is
bounded by max(patience, AGE_FACTOR · W) + 2R, and by patience + 2R if they are another tenant's that has received more.
(Each time that the engine takes a request back counts as one more in b.)

**Cost.** A step costs O(running + S log n), a request O(S + log n), n being the number of waiting requests; an adapter
that ends costs O(t log n) for the t tenants that wait for it; a seat of the last ones of a full batch costs O(m) for
the m tenants of late. No step looks at the whole queue.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from serving.paging.fair_share import Shares
from serving.paging.kept_seats import KeptSeats
from serving.paging.lanes import Entry, Waiting

T = TypeVar("T", bound=Hashable)

AGE_FACTOR = 2.0
"""Multiple of the mean wait after which a request has aged out. The goal is that cold adapters wait at most three times
as long as others; the drain comes on top of this."""

MEMORY = 32
"""Number of requests over which the mean wait, and of adapters over which the usual run, is averaged exponentially: a
few batches, so that they follow the load."""


class Running(NamedTuple):
    """A running request: its adapter (None for a request without one), and how many steps it may still run at most."""

    adapter: Hashable | None
    remaining: int


class AdapterQueue(Generic[T]):
    """The waiting requests. Items are any hashable objects, compared by identity or value as they define it.

    Between `begin_step` and the next one the order is frozen but for what admissions change: `pop` returns what `peek`
    returned, and time stands still. Each request that was popped must be reported to `finished`. The queue is not
    thread-safe.
    """

    def __init__(self, slots: int, patience: float, seats: int | None = None) -> None:
        """Makes an empty queue for S = `slots` slots and a batch of `seats` requests (None: no seat is kept free);
        `patience` is in seconds, by the clock of `add` and `begin_step`.

        Raises:
            ValueError: there is no slot, or the patience is negative.
        """
        if slots < 1 or patience < 0:
            raise ValueError(f"slots must be at least 1 and patience not negative, not {slots} and {patience}")
        self.slots = slots
        self.patience = patience
        self.draining: dict[Hashable, Entry[T]] = {}
        """Draining adapters, each with the waiting request for which it drains."""
        self.mean_wait = 0.0
        """Mean wait in seconds of the requests admitted lately."""
        self.usual_run = 0.0
        """Mean time in seconds from the last request that an adapter got to its end; at most R."""
        self.aged_out = 0
        """Number of requests admitted after they had aged out, since the start."""
        self.shares: Shares[T] = Shares()
        """The accounts of the tenants: how much each has received."""
        self._kept = KeptSeats(self.shares, seats)
        self._waiting: Waiting[T] = Waiting()
        self._active: set[Hashable] = set()
        self._waiting.active = self._active
        self._admitted_at: dict[Hashable, float] = {}
        """Time at which each active adapter got its last request."""
        self._ended = 0
        self._moved = 0.0
        """Time at which a slot was last freed, or at which no aged-out request was waiting."""
        self._residents: frozenset[Hashable] = frozenset()
        self._pinned: frozenset[Hashable] = frozenset()
        self._now = 0.0
        self._step = 0
        self._admitted = 0
        self._choice: Entry[T] | None = None

    # -- the waiting requests

    def add(
        self,
        item: T,
        adapter: Hashable | None,
        now: float,
        *,
        tenant: Hashable = None,
        weight: float = 1.0,
        cost: float = 1.0,
        head_start: float = 0.0,
    ) -> None:
        """Adds a request behind those of its tenant that wait with its head start.

        Args:
            item: the request.
            adapter: its adapter, None when it needs none.
            now: time in seconds.
            tenant: whose request it is.
            weight: the tenant's share, from now on; one of weight 2 gets twice the tokens of one of weight 1.
            cost: tokens that the tenant is charged when the request is admitted (`finished` corrects them).
            head_start: tokens by which the tenant's counter counts less for this request; negative to put it back.

        Raises:
            ValueError: it waits already, the weight is not positive, or the cost is negative.
        """
        self._insert(item, adapter, now, tenant, weight, cost, head_start)

    def add_front(
        self,
        item: T,
        adapter: Hashable | None,
        now: float,
        *,
        tenant: Hashable = None,
        weight: float = 1.0,
        cost: float = 1.0,
    ) -> None:
        """Takes a preempted request back, before all others.

        Raises:
            ValueError: as `add`.
        """
        self._insert(item, adapter, now, tenant, weight, cost, None)

    def _insert(
        self,
        item: T,
        adapter: Hashable | None,
        now: float,
        tenant: Hashable,
        weight: float,
        cost: float,
        head_start: float | None,
    ) -> None:
        if item in self._waiting.entries:
            raise ValueError(f"{item!r} waits already")
        if not (weight > 0 and cost >= 0):
            raise ValueError(f"the weight must be positive and the cost not negative, not {weight} and {cost}")
        self._waiting.add(item, adapter, now, self.shares.arrives(tenant, weight, now), cost, head_start)
        self._choice = None

    def remove(self, item: T) -> bool:
        """Takes a request out; returns False when it does not wait here."""
        entry = self._waiting.entries.get(item)
        if entry is None:
            return False
        self._drop(entry)
        self._choice = None
        return True

    def _drop(self, entry: Entry[T]) -> None:
        self._waiting.drop(entry)
        self.shares.leaves(entry.account)

    def finished(self, item: T, real_cost: float | None = None) -> bool:
        """Takes note that a request has ended, in whatever way, and corrects what its tenant was charged to `real_cost`
        tokens (None: the charge was right). Returns False, and changes nothing, when it was never admitted."""
        return self.shares.finished(item, real_cost, self._now)

    def __len__(self) -> int:
        return len(self._waiting.entries)

    def __contains__(self, item: object) -> bool:
        return item in self._waiting.entries

    def __iter__(self) -> Iterator[T]:
        """Iterates in the order of tenants and arrival over all requests; sorts them, so it is not for scheduling."""
        return (entry.item for entry in sorted(self._waiting.entries.values(), key=lambda entry: entry.rank))

    def waiting_by_adapter(self) -> dict[Hashable | None, int]:
        """Returns the number of waiting requests for each adapter that any waits for; None counts those without an
        adapter."""
        return self._waiting.by_adapter()

    def waiting_by_tenant(self) -> dict[Hashable, int]:
        """Returns the number of waiting requests for each tenant that has any."""
        return {name: account.waiting for name, account in self.shares.accounts.items() if account.waiting}

    def waiting_by_reason(self) -> dict[str, int]:
        """Returns the number of requests that wait, as of this step, for a `slot` (S other adapters are active), for a
        draining adapter to end (`draining`), or only for a seat in the batch (`seat`)."""
        counts = {"slot": 0, "draining": 0, "seat": 0}
        full = len(self._active) >= self.slots
        for adapter, count in self.waiting_by_adapter().items():
            if adapter in self.draining:
                counts["draining"] += count
            elif adapter is None or adapter in self._active or not full:
                counts["seat"] += count
            else:
                counts["slot"] += count
        return counts

    def oldest_wait(self, now: float) -> float:
        """Returns for how many seconds the request that was added first waits; 0 when none waits."""
        since = self._waiting.oldest_since()
        return now - since if since is not None else 0.0

    # -- the request that runs next

    def begin_step(
        self,
        now: float,
        running: Iterable[Running],
        residents: Iterable[Hashable] = (),
        pinned: Iterable[Hashable] = (),
    ) -> None:
        """Takes note of the running requests and the resident adapters, and decides which requests have aged out and
        which adapters drain.

        Args:
            now: time in seconds, by the clock of `add`.
            running: the running requests.
            residents: adapters that hold a slot.
            pinned: residents that keep their slot; they count as active, since no other adapter can have it.
        """
        self._now = now
        self._step += 1
        self._choice = None
        self._kept.begin_step(now)
        remaining: dict[Hashable, int] = {}
        for adapter, left in running:
            if adapter is not None:
                remaining[adapter] = max(left, remaining.get(adapter, 0))
        before, self._active = self._active, remaining.keys() | pinned
        self._waiting.active = self._active
        for adapter in before - self._active:
            self._waiting.index(adapter)
            self._note_ended(adapter)
        self._residents = frozenset(residents)
        self._pinned = frozenset(pinned)
        self._choose_draining(remaining)

    def _note_ended(self, adapter: Hashable) -> None:
        self._moved = self._now
        admitted = self._admitted_at.pop(adapter, None)
        if admitted is not None:
            self._ended += 1
            self.usual_run += (self._now - admitted - self.usual_run) / min(self._ended, MEMORY)

    def _choose_draining(self, remaining: dict[Hashable, int]) -> None:
        limit = max(1, self.slots // 2)
        free = max(0, self.slots - len(self._active))
        wanted = self._waiting.first_idle(free + limit, self._has_aged)[free:]
        if not wanted:
            self._moved = self._now
        kept = [adapter for adapter in self.draining if adapter in self._active]
        if self._now - self._moved < self.usual_run:
            limit = len(kept)
        others = sorted(
            (adapter for adapter in remaining if adapter not in self.draining and adapter not in self._pinned),
            key=lambda adapter: (self._serves_before(adapter, wanted[0]) if wanted else False, remaining[adapter]),
        )
        self.draining = dict(zip([*kept, *others][:limit], wanted, strict=False))

    def _serves_before(self, adapter: Hashable, entry: Entry[T]) -> bool:
        head = self._waiting.head(adapter)
        return head is not None and head.rank < entry.rank

    def upcoming(self, count: int) -> tuple[Hashable, ...]:
        """Returns up to `count` adapters that are waited for and neither active nor resident, as of this step; those
        likely to be loaded first come first."""
        found = self._waiting.first_idle(count + len(self._residents), lambda _: True)
        return tuple(entry.adapter for entry in found if entry.adapter not in self._residents)[:count]

    def peek(self) -> T | None:
        """Returns the request that runs next, None when none may run now."""
        if self._choice is None:
            self._choice = self._choose()
        return self._choice.item if self._choice is not None else None

    def pop(self) -> T:
        """Takes out the request that `peek` returns; its adapter is active from now on, and its tenant is charged.

        Raises:
            IndexError: no request may run now.
        """
        if self.peek() is None or self._choice is None:
            raise IndexError("no waiting request may run now")
        entry, self._choice = self._choice, None
        account, waited = entry.account, max(0.0, self._now - entry.since)
        self.aged_out += self._has_aged(entry)
        self._admitted += 1
        self.mean_wait += (waited - self.mean_wait) / min(self._admitted, MEMORY)
        account.admitted += 1
        account.mean_wait += (waited - account.mean_wait) / min(account.admitted, MEMORY)
        if entry.adapter is not None:
            self._active.add(entry.adapter)
            self._admitted_at[entry.adapter] = self._now
        self._kept.note_begun()
        self.shares.admit(entry.item, account, entry.cost, entry.lane.head_start)
        self._drop(entry)
        return entry.item

    def _choose(self) -> Entry[T] | None:
        candidates = [(entry, self._has_aged(entry), cold) for entry, cold in self._candidates()]
        if not candidates:
            return None
        # a request that was taken back counts as one of the tenant that received least
        least = min(
            (entry.lane.value for entry, _, _ in candidates if entry.lane is not self._waiting.front), default=0.0
        )
        first = min(
            candidates,
            key=lambda one: (max(least, one[0].lane.value), not one[1], one[2] and not one[1], one[0].number),
        )[0]
        taken_back = first.lane is self._waiting.front
        return None if not taken_back and self._kept.hold_back(first.account, first.lane.value) else first

    def _candidates(self) -> Iterator[tuple[Entry[T], bool]]:
        """Yields the first request of each adapter that may run now, and whether the adapter would have to be loaded:
        of active adapters and of none, of resident ones while a slot is free, and then the first of all others."""
        for adapter in (None, *self._active):
            head, wanted = self._waiting.head(adapter), self.draining.get(adapter)
            if head is not None and (wanted is None or head.rank < wanted.rank):
                yield head, False
        if len(self._active) < self.slots:
            for adapter in self._residents - self._active:
                head = self._waiting.head(adapter)
                if head is not None:
                    yield head, False
            head = self._waiting.idle_head()
            if head is not None:
                yield head, head.adapter not in self._residents

    def _has_aged(self, entry: Entry[T]) -> bool:
        account = entry.account
        if account.noted_in != self._step:
            # never moves back: a request that has aged out stays so when the mean wait grows
            account.noted_in = self._step
            account.aged_since = max(account.aged_since, self._now - max(self.patience, AGE_FACTOR * account.mean_wait))
        behind = entry.lane.account is not None and entry.lane.value < self.shares.virtual_time
        return entry.since < (self._now - self.patience if behind else account.aged_since)

    def check_integrity(self) -> None:
        """Checks the tables against each other.

        Raises:
            AssertionError: they disagree.
        """
        self._waiting.check_integrity()
        self.shares.check_integrity()
        assert len(self.draining) <= max(1, self.slots // 2)
