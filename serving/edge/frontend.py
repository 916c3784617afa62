"""The rules at the head of the frontend: sources, paths, CORS, keys and the size of bodies.

They stand before everything that Ray writes there, so that a request which one of them answers touches neither the
router nor a replica, and its body is not read. Their order is that of `rules`.
"""

from serving.edge.answers import ANTHROPIC, API, refusal
from serving.edge.correlation import id_rules, trace_rules
from serving.edge.settings import EdgeSettings
from serving.edge.tenants import tenant_rules, tenant_tables

#: The router's headers (`SERVE_INGRESS_ROUTER_HEADER_PREFIX`, ray/serve/_private/constants.py:451).
ROUTER_HEADER_PREFIX = "x-serve-router-"

#: What a client may not say: beginnings of headers that the router, this project and Ray own, or by which vLLM takes
#: another priority or engine (vllm/entrypoints/generate/base/serving.py:46, 243).
FOREIGN_HEADERS = (
    ROUTER_HEADER_PREFIX,
    "x-learnware",
    "x-vllm-",
    "x-data-parallel-rank",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)

#: Headers of an answer that a page of another origin may read.
EXPOSED_HEADERS = ", ".join(
    (
        *(f"x-learnware{part}" for part in ("", "-reason", "-score", "-route-ms")),
        *(f"x-ratelimit-{part}-{of}" for of in ("requests", "tokens") for part in ("limit", "remaining", "reset")),
        "retry-after",
        "x-request-id",
    )
)

#: Seconds for which a browser keeps the answer to a preflight.
PREFLIGHT_S = 600

#: Proxies in a row whose addresses in X-Forwarded-For are passed over.
_HOPS = 4

#: A source that sends no header is cut off at this many times the limit, without an answer: before a header there is
#: no request that could be answered.
_SILENT_FACTOR = 1.5

_ORIGIN = "txn.edge_origin"
_PATH = "txn.edge_path"
_PAGE = "txn.edge_page"
#: HAProxy variable with the name of the request's tenant.
TENANT = "txn.edge_tenant"


def tables(settings: EdgeSettings) -> str:
    """Return the backends that hold the stick tables, one for the sources and those of the tenants."""
    sources = "backend edge_sources\n    stick-table type ipv6 size 100k expire 60s store conn_cur\n"
    return sources + (tenant_tables() if settings.generating_paths else "")


def bind_options(settings: EdgeSettings) -> str:
    """Return what follows the address of the frontend's bind line. HTTP/2 is not offered: one connection would then
    carry a hundred requests, and connections are what is limited for each source."""
    return "" if settings.tls_certificate is None else f" ssl crt {settings.tls_certificate} alpn http/1.1"


def rules(settings: EdgeSettings, folder: str) -> list[str]:
    """Return the frontend's rules in their order; `folder` holds the maps."""
    return [
        f"timeout http-request {settings.header_wait_s}s",
        *_connection_rules(settings),
        *id_rules(),
        # Decoded first, as the application server behind does: %69nternal is /internal there.
        f"http-request set-var({_PATH}) path,url_dec",
        f"http-request set-var({API}) str({ANTHROPIC}) if {{ var({_PATH}) -m beg /v1/messages }}",
        *_source_rules(settings, folder),
        *(f"http-request del-header {name} -m beg" for name in FOREIGN_HEADERS),
        *_cors_rules(settings),
        *_path_rules(settings, folder),
        *_preflight_rules(settings),
        *_key_rules(settings, folder),
        *_body_rules(settings, folder),
        *(tenant_rules(settings, folder, TENANT) if settings.generating_paths else ()),
        *trace_rules(settings),
    ]


def _connection_rules(settings: EdgeSettings) -> list[str]:
    """Connections count for their source, those of a trusted proxy for none: its requests count for theirs."""
    silent = int(settings.max_connections_per_source * _SILENT_FACTOR) + 1
    networks = " ".join(settings.trusted_proxies)
    if not networks:
        return [
            "tcp-request connection track-sc0 src table edge_sources",
            f"tcp-request connection reject if {{ sc0_conn_cur gt {silent} }}",
        ]
    lines = [f"acl edge_of_proxy src {networks}"]
    if settings.proxy_protocol:
        lines.append("tcp-request connection expect-proxy layer4 if edge_of_proxy")
    lines += [
        "tcp-request connection track-sc0 src table edge_sources if !edge_of_proxy",
        f"tcp-request connection reject if !edge_of_proxy {{ sc0_conn_cur gt {silent} }}",
    ]
    if settings.proxy_protocol:  # from here on the source is the one that the proxy named
        lines += [
            "tcp-request session track-sc0 src table edge_sources if !{ sc0_tracked -m bool } !edge_of_proxy",
            f"tcp-request session reject if {{ sc0_conn_cur gt {silent} }}",
        ]
    return lines


def _source_rules(settings: EdgeSettings, folder: str) -> list[str]:
    """The source of a request that a trusted proxy sends is the last address in X-Forwarded-For that is not one."""
    refused = refusal("source", folder, f"{{ sc0_conn_cur gt {settings.max_connections_per_source} }}")
    forwarded = [f"http-request del-header {name} -m beg" for name in ("x-forwarded-", "x-real-ip", "forwarded")]
    networks = " ".join(settings.trusted_proxies)
    if not networks:
        return [refused, *forwarded]
    lines = [
        "http-request set-var(txn.edge_proxied) bool(true) if edge_of_proxy",
        "acl edge_proxied var(txn.edge_proxied) -m bool",
        *(f"{line} if !edge_proxied" for line in forwarded),
    ]
    passed = "edge_proxied"
    for hop in range(1, _HOPS + 1):
        lines.append(f"http-request set-src req.hdr(x-forwarded-for,-{hop}) if {passed}")
        passed += f" {{ req.hdr_ip(x-forwarded-for,-{hop}) {networks} }}"
    return [*lines, "http-request track-sc0 src table edge_sources if edge_proxied", refused]


def _cors_rules(settings: EdgeSettings) -> list[str]:
    """CORS headers of a replica are removed; with origins configured, every answer carries the edge's own."""
    lines = ["http-response del-header access-control- -m beg"]
    if not settings.cors_origins:
        return lines
    everyone = "*" in settings.cors_origins
    origin = "str(*)" if everyone else "req.hdr(origin)"
    allowed = "{ req.hdr(origin) -m found }"
    if not everyone:
        allowed = f"{{ req.hdr(origin) -m str {' '.join(settings.cors_origins)} }}"
        lines.append("http-after-response add-header Vary Origin")
    found = f"{{ var({_ORIGIN}) -m found }}"
    return [
        *lines,
        f"http-request set-var({_ORIGIN}) {origin} if {allowed}",
        f"http-after-response set-header Access-Control-Allow-Origin %[var({_ORIGIN})] if {found}",
        f'http-after-response set-header Access-Control-Expose-Headers "{EXPOSED_HEADERS}" if {found}',
    ]


def _preflight_rules(settings: EdgeSettings) -> list[str]:
    if not settings.cors_origins:
        return []
    rule = (
        'http-request return status 204 hdr Access-Control-Allow-Methods "GET, POST, PUT, DELETE, OPTIONS"'
        " hdr Access-Control-Allow-Headers %[req.fhdr(access-control-request-headers)]"
        f" hdr Access-Control-Max-Age {PREFLIGHT_S}"
        f" if METH_OPTIONS {{ req.hdr(access-control-request-method) -m found }} {{ var({_ORIGIN}) -m found }}"
    )
    return [rule]


def _path_rules(settings: EdgeSettings, folder: str) -> list[str]:
    """Only what `serving.names.is_allowed` allows passes. A fixed path goes on as it is listed, however it was
    written: the rules that choose an application look at what was written."""
    exact = f"{{ var({_PATH}) -m str {' '.join(settings.paths)} }}"
    below = f"{{ path -m beg {' '.join(settings.path_prefixes)} }}" if settings.path_prefixes else "{ always_false }"
    return [
        *(
            f"http-request redirect location {target} code 302 if METH_GET {{ var({_PATH}) -m str {path} }}"
            for path, target in settings.redirects
        ),
        f"acl edge_exact {exact[2:-2]}",
        f"acl edge_below {below[2:-2]}",
        f"acl edge_odd var({_PATH}) -m reg '{settings.odd_path}'",
        refusal("404", folder, "!edge_exact !edge_below"),
        refusal("404", folder, "!edge_exact edge_odd"),
        f"http-request set-path %[var({_PATH})] if edge_exact",
        *(
            f"http-request set-path {target} if METH_{method} {{ var({_PATH}) -m str {path} }}"
            for method, path, target in settings.rewrites
        ),
    ]


def _key_rules(settings: EdgeSettings, folder: str) -> list[str]:
    """A key's digest names its tenant. While there is no key at all everybody is one tenant, `anonymous`. The console's
    files need no key."""
    known = f"{{ var({TENANT}) -m found }}"
    tenant = f"http-request set-var({TENANT})"
    opened = f"{tenant} str(anonymous) if !{known} {{ str(open),map_str({folder}/state.map) -m str yes }}"
    return [
        *_page_rules(settings),
        f"{tenant} http_auth_bearer,sha2(256),hex,lower,map_str({folder}/keys.map)",
        f"{tenant} req.fhdr(x-api-key),sha2(256),hex,lower,map_str({folder}/keys.map) if !{known}",
        opened,
        refusal(
            "key",
            folder,
            f"!{known} !{{ var({_PATH}) -m str {' '.join(settings.open_paths)} }} !{{ var({_PAGE}) -m found }}",
            " hdr WWW-Authenticate Bearer",
        ),
    ]


def _page_rules(settings: EdgeSettings) -> list[str]:
    """The console's files are told from its interface, by which it fetches what it shows."""
    if settings.pages is None:
        return []
    beginning, interface = settings.pages
    is_page = (
        f"METH_GET {{ var({_PATH}) -m beg {beginning} }} !{{ var({_PATH}) -m str {interface} }} "
        f"!{{ var({_PATH}) -m beg {interface}/ }}"
    )
    return [f"http-request set-var({_PAGE}) bool(true) if {is_page}"]


def _body_rules(settings: EdgeSettings, folder: str) -> list[str]:
    """A body without an announced length is counted where it is read."""
    lines = []
    others = ""
    for path, most in settings.max_bytes_below:
        here = f"{{ var({_PATH}) -m beg {path}/ }}", f"{{ var({_PATH}) -m str {path} }}"
        lines += [refusal("413", folder, f"{{ req.hdr_val(content-length) gt {most} }} {each}") for each in here]
        others += "".join(f" !{each}" for each in here)
    if settings.max_body_bytes:
        large = f"{{ req.hdr_val(content-length) gt {settings.max_body_bytes} }}"
        lines.append(refusal("413", folder, large + others))
    return lines
