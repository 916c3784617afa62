"""The settings of the edge (`serving.edge`), from the configuration, the environment and the key file."""

import ipaddress
from pathlib import Path

from serving.access.keyring import keys_required, static_keys
from serving.config import Config
from serving.config_sections import MIB
from serving.edge.settings import EdgeSettings
from serving.launch.instance import EVERYWHERE, LOOPBACK
from serving.names import (
    CONSOLE_API,
    CONSOLE_PATH,
    DECISION_PATHS,
    DECISION_REWRITES,
    GENERATING_PATHS,
    ODD_PATH,
    OPEN_PATHS,
    allowed_paths,
    allowed_prefixes,
)
from specs.errors import InvalidConfig
from specs.task import MAX_BYTES as MAX_TASK_BYTES


def edge_settings(host: str, config: Config) -> EdgeSettings:
    """Returns the settings by which HAProxy's configuration is edited, for a frontend at `host`.

    The exporter and the statistics page, which has no password, stay on loopback.

    Raises:
        InvalidConfig: a path, origin or network cannot be written into HAProxy's configuration, or a key of the
            configuration or the environment cannot be used.
    """
    http, limits = config.http, config.limits
    for key, values in (("more_paths", http.more_paths), ("cors_origins", http.cors_origins)):
        _check_words(key, values)
    absent = (
        *(() if config.console.enabled else (CONSOLE_PATH,)),
        *(() if config.decisions.enabled else DECISION_PATHS),
    )
    traces = config.traces
    if any(not path.startswith("/") for path in http.more_paths):
        raise InvalidConfig(f"http.more_paths: each path begins with /: {', '.join(http.more_paths)}")
    return EdgeSettings(
        frontend_host="*" if host in EVERYWHERE else host,
        admin_host=LOOPBACK,
        header_wait_s=http.header_wait_s,
        body_wait_s=http.body_wait_s,
        max_body_bytes=int(http.max_body_mib * MIB),
        max_bytes_below=(
            ("/v1/learnwares", int(config.market.max_upload_mib * MIB)),
            ("/v1/task-specs", MAX_TASK_BYTES),
        ),
        max_connections_per_source=http.max_connections_per_source,
        trusted_proxies=tuple(_network(each) for each in http.trusted_proxies),
        proxy_protocol=http.proxy_protocol,
        tls_certificate=_certificate(http.tls_certificate),
        cors_origins=http.cors_origins,
        paths=tuple(path for path in allowed_paths(http.more_paths) if path not in absent),
        path_prefixes=tuple(path for path in allowed_prefixes(http.more_paths) if path not in absent),
        odd_path=ODD_PATH,
        generating_paths=GENERATING_PATHS,
        open_paths=OPEN_PATHS,
        total_requests=total_requests(config),
        open_without_keys=http.insecure or is_loopback(host),
        requests_per_minute=limits.requests_per_minute,
        concurrent_requests=limits.concurrent_requests,
        keys_file=None if config.keys.path is None else str(config.keys.path),
        redirects=(("/", CONSOLE_PATH), (CONSOLE_PATH[:-1], CONSOLE_PATH)) if config.console.enabled else (),
        rewrites=DECISION_REWRITES if config.decisions.enabled else (),
        pages=(CONSOLE_PATH, CONSOLE_API) if config.console.enabled else None,
        trace_share=None if traces.otlp_endpoint is None else traces.sample,
        json_log=traces.logs == "json",
        static_keys=static_keys(config),
    )


def total_requests(config: Config) -> int:
    """Returns the number of generating requests at once from which on each tenant gets no more than its share: as many
    as the replicas take. What is beyond them the edge refuses at once, before anything is chosen for it; a replica that
    is full while another is not refuses by its own count, which is exact."""
    engine = config.engine
    return engine.replicas * (engine.max_num_seqs + config.limits.most_waiting(engine.max_num_seqs))


def check_exposure(config: Config) -> None:
    """Returns if nobody can use the stack whom its owner did not mean to.

    Raises:
        InvalidConfig: others can reach it without a key, or the edge's settings cannot be used.
    """
    edge_settings(config.http.host, config)
    if not keys_required(config) and not config.http.insecure and not is_loopback(config.http.host):
        raise InvalidConfig(
            f"http.host {config.http.host} opens the stack to the network, and there is no key: add one "
            "(`learnware-serving keys add NAME`, with keys.file in the configuration), or say --insecure "
            "(http.insecure: true) to answer whoever reaches the port"
        )


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise InvalidConfig(f"http.trusted_proxies: {text!r} is no network such as 10.0.0.0/8") from None


def _check_words(key: str, values: tuple[str, ...]) -> None:
    for value in values:
        if not value or not value.isascii() or any(char.isspace() or char in "\"'\\#$%{}" for char in value):
            raise InvalidConfig(f"http.{key}: {value!r} holds a character that cannot be matched at the edge")


def _certificate(path: str | None) -> str | None:
    if path is None:
        return None
    found = Path(path).expanduser().resolve()
    _check_words("tls_certificate", (str(found),))
    if not found.is_file():
        raise InvalidConfig(f"http.tls_certificate: there is no file {found}")
    return str(found)
