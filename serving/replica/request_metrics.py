"""Prometheus metrics of an engine replica's requests: the answering model and the reason. (The router's own are in
`router.metrics`.)"""

from prometheus_client import CollectorRegistry, Counter

FALLBACK_PREFIX = "base:"
"""Prefix of the reasons for which the base model answered although a learnware, or a choice of one, was asked for."""


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

    def count(self, learnware: str, reason: str) -> None:
        """Counts one request. Both values must come from fixed sets, since each pair is a time series of its own."""
        self._requests.labels(learnware, reason).inc()
        if reason.startswith(FALLBACK_PREFIX):
            self._fallbacks.labels(reason).inc()
