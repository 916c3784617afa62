"""Names of the Ray Serve applications and deployments, as they appear in Ray's status, logs and metrics."""

APPLICATION = "learnware"
ENGINE = "engine"
ROUTER = "router"
METRICS_APPLICATION = "metrics"
MARKET_APPLICATION = "market"
TASKS_APPLICATION = "task-specs"
