"""Names that several processes must agree on: Ray Serve's applications and deployments, as they appear in Ray's status,
logs and metrics, and the paths of requests that generate text."""

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
