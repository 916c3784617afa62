"""URLs of OpenTelemetry collectors (OTLP over HTTP)."""

from urllib.parse import urlsplit, urlunsplit


def otlp_url(endpoint: str, path: str) -> str:
    """Returns the URL of a collector for one kind of data: `endpoint` itself, with OTLP's `path` for that kind where it
    has none."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else urlunsplit(parts._replace(path=path))
