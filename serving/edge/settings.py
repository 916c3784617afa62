# ruff: noqa: PTH123
"""The settings of the edge: written as JSON by the launcher (`serving.launch.edge_settings`), read by the programs
beside HAProxy."""

import json
from typing import Any, NamedTuple


class EdgeSettings(NamedTuple):
    """Everything by which HAProxy's configuration is edited."""

    frontend_host: str = ""
    """Address of the frontend; an empty one keeps Serve's own."""
    admin_host: str = "127.0.0.1"
    """Address of the exporter and of the statistics page."""
    header_wait_s: int = 10
    """Seconds that a request's header may take to arrive."""
    body_wait_s: int = 30
    """Seconds that a request's body may take to arrive."""
    max_body_bytes: int = 0
    """Largest body in bytes that a client may announce; 0 sets no limit."""
    max_bytes_below: tuple[tuple[str, int], ...] = ()
    """Pairs of a path and the largest body in bytes, for it and for the paths below it, in the place of
    `max_body_bytes`."""
    max_connections_per_source: int = 1024
    """Connections that one address may have open."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of the proxies whose X-Forwarded-For is believed."""
    proxy_protocol: bool = False
    """Whether those proxies begin each connection with the PROXY protocol."""
    tls_certificate: str | None = None
    """PEM file with certificate, chain and private key; None: plain HTTP."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call; `*` means every one."""
    paths: tuple[str, ...] = ()
    """Decoded paths that clients may reach."""
    path_prefixes: tuple[str, ...] = ()
    """Beginnings, each with its last slash, of further paths that clients may reach."""
    odd_path: str = "a^"
    """Regular expression of what no path below a beginning may hold."""
    generating_paths: tuple[str, ...] = ()
    """Paths for which the router is asked and which count against a tenant's limits (`serving.names`)."""
    open_paths: tuple[str, ...] = ()
    """Paths that need no key."""
    total_requests: int = 0
    """Requests to generating paths at once, over which a tenant with more than its share is refused; 0: any number."""
    open_without_keys: bool = True
    """Whether everybody is answered while there is no key at all."""
    requests_per_minute: int | None = None
    """Limit of a tenant whose key names none."""
    concurrent_requests: int | None = None
    """Limit of a tenant whose key names none."""
    keys_file: str | None = None
    """The key file, which is followed while HAProxy runs."""
    redirects: tuple[tuple[str, str], ...] = ()
    """Pairs of a path and the one that a GET or HEAD of it is sent to."""
    rewrites: tuple[tuple[str, str, str], ...] = ()
    """A method (GET holds for HEAD too), a path of `paths`, and the one by which such a request for it goes on."""
    pages: tuple[str, str] | None = None
    """A beginning of paths below which GET and HEAD need no key, and the path in it at and below which they do."""
    trace_share: float | None = None
    """Share of the generating requests without a trace context of their own for which a trace is recorded; None where
    no spans are made."""
    json_log: bool = False
    """Whether HAProxy's log lines are JSON objects."""
    static_keys: tuple[dict[str, Any], ...] = ()
    """Keys of configuration and environment, as entries of a key file; one with `"opens"` false does not by itself make
    others need a key (the admin key)."""

    def text(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(self._asdict(), indent=1)


def read_settings(path: str) -> EdgeSettings:
    """Return the settings that `EdgeSettings.text` wrote into a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else.
    """
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    if not isinstance(given, dict) or not given.keys() <= set(EdgeSettings._fields):
        raise ValueError(f"{path} does not hold the edge's settings")
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return EdgeSettings(**settings)
