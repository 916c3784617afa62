"""Prometheus metrics of what the engine did: tokens, time and time to first token, by learnware and by tenant.

Learnwares and tenants come and go, and each name is a time series for each bucket. So only the first `NAMES` names of
each kind have series of their own; what comes after is counted together as `OTHER`.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

from serving.paging.usage import Usage
from specs.engine_name import split_engine_name

NAMES = 100
"""Most learnwares, and most tenants, that have series of their own on one replica."""
OTHER = "(other)"
"""Label of all further ones; no learnware and no tenant can have this name."""

SECONDS_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper bounds in seconds: from a short answer on a GPU to a long one that waited."""


class CappedNames:
    """Label values of one kind: the first `limit` that come are themselves, all others are `OTHER`."""

    def __init__(self, limit: int = NAMES) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """Returns the label value under which `name` is counted, always the same for the same name."""
        if name in self._known:
            return name
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(name)
        return name


class UsageMetrics:
    """The usage of one engine replica, in the registry that is passed in."""

    def __init__(self, registry: CollectorRegistry, base: str, names: int = NAMES) -> None:
        """Makes the metrics; `base` is the base model's id."""
        self._base = base
        self._by_learnware = _Series("learnware", "", "the learnware that answered", registry, names)
        self._by_tenant = _Series("tenant", "tenant_", "tenant", registry, names)

    def observe(self, usage: Usage) -> None:
        """Counts a request that has ended."""
        learnware = self._base if usage.engine_name is None else split_engine_name(usage.engine_name)[0]
        self._by_learnware.observe(learnware, usage)
        self._by_tenant.observe(usage.tenant, usage)


class _Series:
    """The metrics by one label."""

    def __init__(self, label: str, infix: str, by: str, registry: CollectorRegistry, names: int) -> None:
        self._names = CappedNames(names)
        self._tokens = Counter(
            f"learnware_{infix}tokens",
            f"Tokens of prompts and of answers (kind), by {by}.",
            [label, "kind"],
            registry=registry,
        )
        self._seconds = Histogram(
            f"learnware_{infix}request_seconds",
            f"Time from a request's admission by the replica to its end, by {by}.",
            [label],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._first_token = Histogram(
            f"learnware_{infix}first_token_seconds",
            f"Time from a request's admission by the replica to its first token, by {by}.",
            [label],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

    def observe(self, name: str, usage: Usage) -> None:
        label = self._names.label(name)
        self._tokens.labels(label, "prompt").inc(usage.prompt_tokens)
        self._tokens.labels(label, "generated").inc(usage.generated_tokens)
        self._seconds.labels(label).observe(usage.seconds)
        if usage.first_token_s is not None:
            self._first_token.labels(label).observe(usage.first_token_s)
