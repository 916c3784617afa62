"""Places a request on one learnware and one engine replica, by the learnwares' expected qualities, the replicas'
resident adapters, and their loads.

**Replicas.** Every adapter has an order of all replicas of its own, by rendezvous hashing (Thaler and Ravishankar
1998); the first is its home replica. A replica that comes or goes changes the home of its own share of the adapters and
of no others. A replica takes new requests while it has fewer than the load bound, `max(free_load, ⌈load_factor · (all
requests + 1) / replicas⌉)`; so none has more than `load_factor` times its share, nor more than `free_load` where that
is larger (consistent hashing with bounded loads: Mirrokni, Thorup and Zadimoghaddam 2018), and an adapter too hot for
its home spreads to the next of its order. At least one replica is always below the bound.

**Learnwares.** A learnware may answer if its expected quality is at most `margin` below the best one's. Of all pairs of
such a learnware and a replica below the bound, the pair wins whose adapter is on the device there, else in host memory,
else neither; among equals the better learnware, then, of replicas that have it on the device, the one with fewer
requests, then the one that comes first in the adapter's order.

Nothing here knows Ray or a clock of its own: `router.deployment` runs it on Ray Serve, `benchmarks.simulate` under a
simulated clock.
"""

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

TIERS = DEVICE, HOST, DISK = "device", "host", "disk"
"""Tiers that an adapter may be in on a replica, the fastest first: in a slot on the device, in host memory, on disk
alone."""
_TIERS = {tier: rank for rank, tier in enumerate(TIERS)}

HOME = "home"
"""Reason of a placement: the replica is the adapter's home."""
RESIDENT = "resident"
"""Reason of a placement: the replica is not the adapter's home, but has it in a faster tier, or has it on the device as
well and fewer requests."""
SPREAD = "spread"
"""Reason of a placement: all replicas before this one in the adapter's order are at the load bound."""
LEAST_LOADED = "least-loaded"
"""Reason of a placement: the base model answers, and the replica has the fewest requests."""

REMEMBERED_ORDERS = 4096
"""Adapters whose order of replicas is kept: an order of 64 replicas takes 0.1 ms to work out and 0.6 kB."""

REPORT_LAG_S = 0.2
"""Age of a report in seconds when it arrives: Ray Serve's controller (2.60) looks for it every 0.1 s and sends it
on."""
SENT_HORIZON_S = 1.5
"""Seconds after which a request that was sent is in the replica's report, or done: reports come about once a second,
but an unchanged one is not sent again."""


class PlacementSettings(BaseModel):
    """Which engine replica a request goes to, where there are several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    affinity: bool = Field(
        True,
        description="A learnware's requests go where its adapter is; false: to a random replica, for comparison.",
    )
    load_factor: float = Field(
        1.5,
        ge=1,
        description="No replica gets more than this many times its share of all requests, but for free_load. Smaller "
        "balances better and loads adapters more often: simulated with two replicas of 8 slots and 16 adapters, 1.25 "
        "gives 0.4 of a random replica's loads, 1.5 0.2, and 2 nearly none, at over twice the 99th percentile of TTFT.",
    )
    free_load: int = Field(
        8,
        ge=1,
        description="A replica with fewer requests than this, running or waiting, takes further ones whatever the "
        "others have.",
    )


class Option(NamedTuple):
    """A learnware that may answer: the engine's name of its adapter (None: the base model, no adapter) and its expected
    quality relative to the best one's, in [0, 1]."""

    learnware: str | None
    adapter: str | None
    quality: float


class ReplicaState(NamedTuple):
    """The known state of a replica: the tier of each adapter (`device` or `host`; others are on disk), and its number
    of requests, running or waiting."""

    adapters: Mapping[str, str]
    load: int


class Placed(NamedTuple):
    """A request's learnware and replica. `tier` is the tier of the adapter on that replica (for the base model: the
    device); `why` is the reason, one of `HOME`, `RESIDENT`, `SPREAD` and `LEAST_LOADED`."""

    option: Option
    replica: str
    tier: str
    why: str


class Placement:
    """The policy of placing. Keeps nothing but the adapters' orders of replicas; not thread-safe."""

    def __init__(self, margin: float, settings: PlacementSettings) -> None:
        """Makes the policy. `margin` is the expected quality that may be given up for an adapter that is resident."""
        self.margin = margin
        self._settings = settings
        self._names: tuple[str, ...] = ()
        self._orders: dict[str, tuple[str, ...]] = {}

    def place(self, options: Sequence[Option], replicas: Mapping[str, ReplicaState]) -> Placed:
        """Places a request; `options` holds at least one learnware, the best first, and `replicas` at least one
        replica.

        Raises:
            ValueError: there is no option or no replica.
        """
        if not options or not replicas:
            raise ValueError(f"nothing to choose from: {len(options)} options, {len(replicas)} replicas")
        if options[0].adapter is None:
            return Placed(options[0], least_loaded(replicas), DEVICE, LEAST_LOADED)
        bound = self.bound(state.load for state in replicas.values())
        pairs = (
            (
                (tier := _TIERS[state.adapters.get(option.adapter, DISK)], rank, 0 if tier else state.load, position),
                option,
                name,
            )
            for rank, option in enumerate(self.within_margin(options))
            if option.adapter is not None
            for position, name in enumerate(self.order(option.adapter, replicas))
            if (state := replicas[name]).load < bound
        )
        (fastest, *_), option, name = min(pairs, key=itemgetter(0))
        return Placed(option, name, TIERS[fastest], self._why(option, name, replicas, bound))

    def within_margin(self, options: Sequence[Option]) -> Sequence[Option]:
        """Returns the options that are good enough to answer, the best first."""
        return [option for option in options if options[0].quality - option.quality <= self.margin]

    def bound(self, loads: Iterable[int]) -> int:
        """Returns the number of requests at which a replica gets no further one."""
        known = list(loads)
        share = self._settings.load_factor * (sum(known) + 1) / len(known)
        return max(self._settings.free_load, math.ceil(share))

    def order(self, adapter: str, replicas: Iterable[str]) -> tuple[str, ...]:
        """Returns the replicas in the adapter's order; the first is its home."""
        names = tuple(sorted(replicas))
        if names != self._names:
            self._names, self._orders = names, {}
        order = self._orders.get(adapter)
        if order is None:
            if len(self._orders) >= REMEMBERED_ORDERS:
                self._orders.clear()
            order = self._orders[adapter] = tuple(sorted(names, key=lambda name: _weight(adapter, name), reverse=True))
        return order

    def _why(self, option: Option, chosen: str, replicas: Mapping[str, ReplicaState], bound: int) -> str:
        order = self.order(option.adapter or "", replicas)
        if chosen == order[0]:
            return HOME
        passed_over = order[: order.index(chosen)]
        return SPREAD if all(replicas[name].load >= bound for name in passed_over) else RESIDENT


def least_loaded(replicas: Mapping[str, ReplicaState]) -> str:
    """Returns the replica with the fewest requests."""
    return min(replicas, key=lambda name: replicas[name].load)


def _weight(adapter: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{adapter}\n{replica}".encode(), digest_size=8).digest()


class Reports:
    """Keeps each replica's last report, and the times of the requests that were sent to it since."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[Mapping[str, Any], float]] = {}
        self._sent: dict[str, deque[float]] = {}

    def states(self, reports: Mapping[str, Mapping[str, Any]], now: float) -> dict[str, ReplicaState]:
        """Returns the replicas' states, from their newest reports (`{"adapters": {name: tier}, "running": …, "waiting":
        …}`, empty before the first). Replicas that are not there any more are forgotten. `now` is in seconds."""
        for gone in self._reports.keys() - reports.keys():
            del self._reports[gone]
            self._sent.pop(gone, None)
        return {name: self._state(name, report, now) for name, report in reports.items()}

    def note_sent(self, replica: str, now: float) -> None:
        """Notes that a request goes to this replica."""
        self._sent.setdefault(replica, deque()).append(now)

    def _state(self, name: str, report: Mapping[str, Any], now: float) -> ReplicaState:
        known = self._reports.get(name)
        if known is None or (known[0] is not report and known[0] != report):
            known = self._reports[name] = (report, now - REPORT_LAG_S)
        sent = self._sent.setdefault(name, deque())
        since = max(known[1], now - SENT_HORIZON_S)
        while sent and sent[0] < since:
            sent.popleft()
        return ReplicaState(report.get("adapters", {}), report.get("running", 0) + report.get("waiting", 0) + len(sent))
