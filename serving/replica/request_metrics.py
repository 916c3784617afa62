"""The Prometheus metrics of an engine replica: who answered, and why. (The router's own are in `router.metrics`.)"""

from prometheus_client import CollectorRegistry, Counter

FALLBACK_PREFIX = "base:"
"""Reasons with this prefix mean: a learnware was asked for, or a choice, and the base model answered instead."""


class ReplicaMetrics:
    """The collectors of one engine replica, in the registry that is passed in."""

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

    def count(self, learnware: str, reason: str) -> None:
        """Counts one request. Both must come from fixed sets, since each pair is a time series of its own."""
        self._requests.labels(learnware, reason).inc()
        if reason.startswith(FALLBACK_PREFIX):
            self._fallbacks.labels(reason).inc()
