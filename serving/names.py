"""Names that several processes must agree on: Ray Serve's applications and deployments, as they appear in Ray's status,
logs and metrics, and the paths of requests that generate text."""

from collections.abc import Sequence

APPLICATION = "learnware"
ENGINE = "engine"
ROUTER = "router"
METRICS_APPLICATION = "metrics"
MARKET_APPLICATION = "market"
MARKET = "market"
TASKS_APPLICATION = "task-specs"

GENERATING_PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/inference/v1/generate",
    "/invocations",
    "/cohere/v2/chat",
    "/generative_scoring",
)
"""Paths that vLLM 0.29 answers by generating, so that a learnware can be chosen for them. HAProxy asks the router about
requests to these paths alone."""

OPEN_PATHS = frozenset({"/health", "/ping", "/-/healthz"})
"""Paths that need no key: those of health checks."""
ALLOWED_PATHS = frozenset(
    {
        *OPEN_PATHS,
        *GENERATING_PATHS,
        "/version",
        "/v1/models",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
        "/v1/route",
        "/v1/learnwares",
        "/v1/task-specs",
        "/metrics",
        "/-/routes",
    }
)
"""Paths that clients may reach."""
ALLOWED_BELOW = ("/v1/models/", "/v1/responses/", "/v1/learnwares/", "/v1/task-specs/")
"""Beginnings of further such paths."""


def is_allowed(path: str, more: Sequence[str] = ()) -> bool:
    """Returns whether clients may reach a path, decoded. `more` are further ones; a trailing / means all below."""
    return (
        path in ALLOWED_PATHS
        or path.startswith(ALLOWED_BELOW)
        or any(path.startswith(each) if each.endswith("/") else path == each for each in more)
    )
