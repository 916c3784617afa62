"""HAProxy configurations as Ray Serve's own code renders them, for the tests of the edge."""

from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("ray.serve")

from ray.serve._private import haproxy
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, HAProxyManager, ServerConfig
from ray.serve.config import HTTPOptions

from serving.launch.environment import FORWARDED_BODY_BYTES

ENGINE_REPLICA = ReplicaID("r1", DeploymentID("engine", "learnware")).to_full_id_str()
"""As Ray names a replica's actor; its server in HAProxy has the same name, made safe."""
SECOND_REPLICA = ReplicaID("r3", DeploymentID("engine", "learnware")).to_full_id_str()


class RenderedPorts(NamedTuple):
    http: int = 18000
    exporter: int = 19101
    stats: int = 18404
    engine: int = 30000
    router: int = 30001
    second_router: int = 30002
    fallback: int = 18500
    other: int = 30003
    second_engine: int = 0
    """0: there is none."""


def render(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    router: bool = True,
    apps: bool = True,
    other: str = "metrics",
    prefix: str = "/metrics",
    ports: RenderedPorts,
) -> Path:
    """Writes `haproxy.cfg` and the router script into `folder`: an engine on `/`, another application, called `other`,
    on `prefix`.

    Rendered by Ray Serve itself, with the settings of `serving.launch.environment`.
    """
    monkeypatch.setattr(haproxy, "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY", True)
    monkeypatch.setattr(haproxy, "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE", FORWARDED_BODY_BYTES)
    monkeypatch.setattr(haproxy, "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_TIMEOUT_S", 3)

    def server(name: str, port: int) -> ServerConfig:
        return ServerConfig(name=HAProxyManager.get_safe_name(name), host="127.0.0.1", port=port, replica_id=name)

    routers = [server("router-1", ports.router), server("router-2", ports.second_router)] if router else []
    fallback = server("SERVE_PROXY_ACTOR-fallback", ports.fallback)
    engines = [server(ENGINE_REPLICA, ports.engine)]
    if ports.second_engine:
        engines.append(server(SECOND_REPLICA, ports.second_engine))
    engine = BackendConfig(
        name="http-learnware",
        path_prefix="/",
        app_name="learnware",
        servers=engines,
        ingress_request_router_servers=routers,
        fallback_server=fallback,
    )
    second = BackendConfig(
        name=f"http-{other}",
        path_prefix=prefix,
        app_name=other,
        servers=[server(ReplicaID("r2", DeploymentID(other, other)).to_full_id_str(), ports.other)],
        fallback_server=fallback,
    )
    api = HAProxyApi(
        cfg=HAProxyConfig(
            socket_path=str(folder / "admin"),
            server_state_base=str(folder),
            server_state_file=str(folder / "state"),
            metrics_socket_path=str(folder / "metrics"),
            metrics_port=ports.exporter,
            stats_port=ports.stats,
            nbthread=1,
            http_options=HTTPOptions(host="127.0.0.1", port=ports.http),
            is_head=True,
        ),
        backend_configs={backend.name: backend for backend in (engine, second)} if apps else {},
        config_file_path=str(folder / "haproxy.cfg"),
    )
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"
