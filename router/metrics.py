"""The router's own Prometheus metrics: how long it took, how good the match was, and why the base model answered
instead."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from router.placement import Placed
from router.selection import Choice
from specs.market.follower import FAULT_HELP, SEQUENCE_HELP

ROUTE_SECONDS = tuple(step / 1e4 for step in (1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 100, 200, 500, 1000, 2500, 5000))
"""Buckets of the time for a choice, in seconds: sub-millisecond steps, since a choice takes some hundred microseconds
and its target is one millisecond; then coarser ones, past the default deadline of 500 ms."""

WAIT_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
"""Buckets of the wait for a decision, in seconds: from nothing to the longest wait that may be configured."""

UNIT_INTERVAL = tuple(step / 20 for step in range(1, 20))
"""Buckets of scores and confidences, which lie in [0, 1]; steps of 0.05 show where a threshold would cut."""


class RouterMetrics:
    """The collectors of one router replica, in the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "learnware_route_seconds",
            "The router's own time for one choice, without the wait before it.",
            buckets=ROUTE_SECONDS,
            registry=registry,
        )
        self._wait = Histogram(
            "learnware_route_wait_seconds",
            "How long requests waited for the router's decision to start.",
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self._waiting = Gauge(
            "learnware_route_waiting", "Requests that wait for the router's decision now.", registry=registry
        )
        self._refused = Counter(
            "learnware_route_refused",
            "Requests that the router could not decide on in time, by what became of them (refuse, base).",
            ["outcome"],
            registry=registry,
        )
        self._score = Histogram(
            "learnware_match_score",
            "Score of the best learnware, whether chosen or not.",
            buckets=UNIT_INTERVAL,
            registry=registry,
        )
        self._confidence = Histogram(
            "learnware_match_confidence",
            "Confidence that some learnware fits.",
            buckets=UNIT_INTERVAL,
            registry=registry,
        )
        self._choices = Counter(
            "learnware_choices", "Choices made by the router.", ["learnware", "reason"], registry=registry
        )

        self._placements = Counter(
            "learnware_placements",
            "Requests placed on a replica, by why it was chosen and the tier of their adapter there.",
            ["why", "tier"],
            registry=registry,
        )

        self._sequence = Gauge("learnware_market_sequence", SEQUENCE_HELP, registry=registry)
        self._catalogue_fault = Gauge("learnware_market_catalogue_fault", FAULT_HELP, registry=registry)

    def watch_market(self, sequence: Callable[[], int], fault: Callable[[], bool] = bool) -> None:
        """Makes each scrape ask `sequence` for the number of the market's change that is in effect, and `fault` whether
        the published catalogue cannot be followed."""
        self._sequence.set_function(sequence)
        self._catalogue_fault.set_function(fault)

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        """Makes each scrape ask `waiting` how many requests wait."""
        self._waiting.set_function(waiting)

    def observe_wait(self, seconds: float) -> None:
        """Counts the wait of one request whose decision has started."""
        self._wait.observe(seconds)

    def observe_overload(self, outcome: str) -> None:
        """Counts one request whose decision could not start in time."""
        self._refused.labels(outcome).inc()

    def observe_placement(self, placed: Placed) -> None:
        """Counts one request that was placed."""
        self._placements.labels(placed.why, placed.tier).inc()

    def observe(self, choice: Choice, seconds: float) -> None:
        """Counts one choice for a request that asked for one."""
        self._seconds.observe(seconds)
        if choice.candidates:
            self._score.observe(choice.candidates[0].score)
            self._confidence.observe(choice.confidence)
        self._choices.labels(choice.learnware_id or "base", choice.reason).inc()
