"""A tenant: whoever holds an API key, with the limits that hold for all its requests together."""

from typing import NamedTuple

ANONYMOUS_NAME = "anonymous"
"""Name of the one tenant of a stack without keys. No key may have it."""
ADMIN_NAME = "admin"
"""Name of the tenant that holds the admin key. No API key may have it."""


class Tenant(NamedTuple):
    """A tenant and what its key allows. None means: without limit."""

    name: str
    """Name for logs, metrics and `learnware-serving keys`: letters, digits, `-`, `_` and `.`, at most 64."""
    weight: float = 1.0
    """Share among tenants that wait: one of weight 2 gets twice the tokens of one of weight 1."""
    priority: int = 0
    """Best (lowest) priority that its requests may ask for; 0 grants none."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_tokens: int | None = None
    """Most tokens of one answer."""
    models: tuple[str, ...] | None = None
    """Values of `model` that it may use."""
    metrics: bool = False
    """Whether it may read /metrics."""
    admin: bool = False
    """Whether it holds the admin key, which changes the market."""


ANONYMOUS = Tenant(ANONYMOUS_NAME, metrics=True)
"""The tenant of every request to a stack without keys."""
