"""Prometheus metrics of an engine replica's requests: the answering model and the reason. (The router's own are in
`router.metrics`.)"""

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from specs.market.fitness import BROKEN, DUPLICATE, UNFIT
from specs.market.follower import FAULT_HELP, SEQUENCE_HELP

FALLBACK_PREFIX = "base:"
"""Prefix of the reasons for which the base model answered although a learnware, or a choice of one, was asked for."""

NOT_LOADED = "not-loaded"
"""Kind of a learnware that is served by the catalogue, but whose adapter this replica could not read or load."""
UNSERVED = (UNFIT, "quarantined", BROKEN, DUPLICATE, NOT_LOADED)
"""Kinds of learnwares that are not served: in a market the first two, in a plain folder the first and the next two, and
anywhere the last."""


class ReplicaMetrics:
    """The counters of one engine replica's requests, in the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "learnware_requests",
            "Requests by the model that answered (a learnware's id or the base model's) and why.",
            ["learnware", "reason"],
            registry=registry,
        )
        self._fallbacks = Counter(
            "learnware_fallbacks", "Requests that the base model answered instead.", ["reason"], registry=registry
        )

        self._unserved = Gauge(
            "learnware_unserved",
            "Learnwares that are there and not served, by reason: unfit for the configuration, quarantined, broken or "
            "duplicate (in a folder without a market), not-loaded by this replica.",
            ["reason"],
            registry=registry,
        )

        self._sequence = Gauge("learnware_market_sequence", SEQUENCE_HELP, registry=registry)
        self._catalogue_fault = Gauge("learnware_market_catalogue_fault", FAULT_HELP, registry=registry)

    def watch_market(self, sequence: Callable[[], int], fault: Callable[[], bool] = bool) -> None:
        """Makes each scrape ask `sequence` for the number of the market's change that is in effect, and `fault` whether
        the published catalogue cannot be followed."""
        self._sequence.set_function(sequence)
        self._catalogue_fault.set_function(fault)

    def watch_unserved(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Makes each scrape ask `counts` how many learnwares are not served, by the kinds of `UNSERVED`."""
        for reason in UNSERVED:
            self._unserved.labels(reason).set_function(partial(_count_of, counts, reason))

    def count(self, learnware: str, reason: str) -> None:
        """Counts one request. Both values must come from fixed sets, since each pair is a time series of its own."""
        self._requests.labels(learnware, reason).inc()
        if reason.startswith(FALLBACK_PREFIX):
            self._fallbacks.labels(reason).inc()


def _count_of(counts: Callable[[], Mapping[str, int]], reason: str) -> float:
    return counts().get(reason, 0)
