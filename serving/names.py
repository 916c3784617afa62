"""Names that several processes must agree on: Ray Serve's applications and deployments, as they appear in Ray's status,
logs and metrics, the paths that clients may reach, and those of requests that generate text."""

import re
from collections.abc import Sequence

APPLICATION = "learnware"
ENGINE = "engine"
ROUTER = "router"
METRICS_APPLICATION = "metrics"
MARKET_APPLICATION = "market"
MARKET = "market"
TASKS_APPLICATION = "task-specs"
CONSOLE_APPLICATION = "console"
DECISIONS_APPLICATION = "decisions"
DECISIONS = "decisions"

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

CONSOLE_PATH = "/console/"
"""Path of the console's first page. GET and HEAD need no key below it."""
CONSOLE_API = "/console/api"
"""Path at and below which the console's own interface answers, which needs a key."""
DECISION_PATHS = ("/v1/decisions", "/v1/decisions/", "/v1/feedback", "/v1/evaluations")
"""Paths, and a beginning of paths, that the application `DECISIONS_APPLICATION` answers."""
DECISION_REWRITES = (
    ("POST", "/v1/feedback", "/v1/decisions/feedback"),
    ("GET", "/v1/evaluations", "/v1/decisions/evaluations"),
)
"""Methods and paths by which clients give feedback and see comparisons, and the paths by which these requests reach the
application that answers them."""

OPEN_PATHS = ("/health", "/ping", "/-/healthz")
"""Paths that need no key."""

ALLOWED_PATHS = (
    *OPEN_PATHS,
    *GENERATING_PATHS,
    "/-/routes",
    "/version",
    "/metrics",
    "/metrics/",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/messages/count_tokens",
    "/v1/route",
    "/v1/learnwares",
    "/v1/task-specs",
    "/v1/decisions",
    "/v1/feedback",
    "/v1/evaluations",
    CONSOLE_PATH,
)
"""Paths that clients may reach, decoded. Rendering and counting cost what tokenizing costs."""

ALLOWED_PREFIXES = (
    "/v1/models/",
    "/v1/responses/",
    "/v1/learnwares/",
    "/v1/task-specs/",
    "/v1/decisions/",
    CONSOLE_PATH,
)
"""Beginnings of further paths that clients may reach: models, stored responses, learnwares, task specifications and
decisions by their id, and the console's files and interface."""

ODD_PATH = r"/[.]{0,2}(/|$)|[[:cntrl:]\\]"
"""Regular expression (POSIX classes, as HAProxy reads it) of what no path below a beginning may hold: an empty segment,
`.` or `..`, control characters and backslashes, by which two programs could read a path in two ways."""

_ODD = re.compile(ODD_PATH.replace("[:cntrl:]", r"\x00-\x1f\x7f"))


def allowed_paths(more: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the fixed paths that clients may reach, those of `more` (`http.more_paths`) among them."""
    return (*ALLOWED_PATHS, *(path for path in more if not path.endswith("/")))


def allowed_prefixes(more: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the beginnings of paths below which clients may reach all; in `more` those end with a slash."""
    return (*ALLOWED_PREFIXES, *(path for path in more if path.endswith("/")))


def is_allowed(path: str, more: Sequence[str] = ()) -> bool:
    """Returns whether clients may reach a decoded path. The edge and each replica ask the same lists.

    `more` are further paths (`http.more_paths`), all below one that ends with a slash.
    """
    if path in allowed_paths(more):
        return True
    return path.startswith(allowed_prefixes(more)) and not _ODD.search(path)
