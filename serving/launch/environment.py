"""The environment variables that must be set before Ray is imported, each with its reason.

Ray Serve's controller, proxies and replicas each read them at import, so on a cluster they must be set for `ray start`
on every node. Line numbers are those of Ray 2.60.0; C = `ray/serve/_private/constants.py`.
"""

import resource
from pathlib import Path

from serving.launch.instance import LOOPBACK, Instance
from serving.launch.ports import REPLICA_PORTS

FORWARDED_BODY_BYTES = 262_144
"""Bytes of a body that the router sees, and with which a request can be tried again; a longer one is cut, and routed on
what can be read. It is the size of each of HAProxy's buffers, and the copy that it keeps of each request for a second
try is as large whatever the request holds, so that time and memory go with it. A quarter of a mebibyte is about 60,000
tokens of English."""

MAX_CONNECTIONS = 20_000
"""Connections that HAProxy holds at most (Ray's default is 4,096, which four addresses could fill)."""

ROUTER_TIMEOUT_S = 3
"""Whole seconds that Ray's script waits for the router. The backend between them waits 2 s
(`serving.edge.router_rules`); the router bounds wait, choice and the look for a replica, to answer before that."""

DRAINING_PERIOD_S = 1
"""Seconds that a stopping replica stays reachable at least. HAProxy drops it within a second, and tries another replica
where one refuses; running requests may go on. Stopping the stack waits this long once for each tier of deployments."""

LONGEST_ANSWER_S = 3600
"""Seconds that a generation may go on after a change of topology. Each change restarts HAProxy; the old process serves
its streams to the end or for this long, and a stream that outlasts it is cut."""


def instance_environment(
    instance: Instance,
    *,
    router_replicas: int,
    longest_answer_s: int = LONGEST_ANSWER_S,
    one_machine: bool = True,
) -> dict[str, str]:
    """Returns the environment variables for a stack.

    `one_machine` means that Ray's cluster is this machine alone, started by this project; without it Ray's own
    addresses and folder are left as the operator's `ray start` sets them.
    """
    environment = {
        # HAProxy in front instead of a Python proxy (C:752), requests to replicas directly and through the router's
        # choice (ray/llm/_internal/serve/constants.py:65), with the body, which is what the choice is made on (C:1017).
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1",
        "RAY_SERVE_INGRESS_REQUEST_ROUTER_FORWARD_BODY": "1",
        "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE": str(FORWARDED_BODY_BYTES),  # C:983
        "RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_TIMEOUT_S": str(ROUTER_TIMEOUT_S),  # C:952
        # With two on each node the other one is asked when one has died (C:755).
        "RAY_SERVE_INGRESS_ROUTER_REPLICAS_PER_NODE": str(router_replicas),
        "RAY_SERVE_HAPROXY_MAXCONN": str(max_connections()),  # C:771
        # The launcher that adds the edge rules (C:767, serving.edge.haproxy_wrapper).
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(instance.launcher),
        # One thread moves far more bytes than engines produce; the default of 4 idles beside the engine's own (C:774).
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(longest_answer_s),  # C:804; default 120 cuts longer streams
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_PERIOD_S),  # C:1081; default 30 delays each stop
        # Ray starts workers with niceness 15 (ray/_private/ray_constants.py:629): meant for batch work beside
        # interactive use. Here the workers are the service, and everything else on the machine would go first.
        "RAY_worker_niceness": "0",
        # A replica's handlers in the event loop that serves its HTTP, and a router's in the loop that asks for
        # replicas: each token, and each choice, otherwise crosses threads twice (C:1108 to 1124). Nothing here blocks a
        # loop for long; what could, the choice itself, has threads of its own.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_FREEZE_GC_ON_STARTUP": "1",
        **_paths(instance),
        **_ports(instance),
        **_PRIVACY,
        # Only holders of the token in ~/.ray/auth_token may run code in the Ray cluster; Ray makes it when it is
        # missing (ray/_private/authentication/authentication_token_setup.py:27). Explicit, so that a second driver has
        # the same mode.
        "RAY_AUTH_MODE": "token",
    }
    if one_machine:
        # Ray's sessions in the run folder: nobody else's `ray.init()` finds this cluster by accident, and what a killed
        # run leaves behind can be told from other stacks (ray/_common/utils.py:328).
        environment["RAY_TMPDIR"] = str(instance.folder)
        # Replicas, routers and Ray's own servers listen where only this machine reaches them; the frontend's address is
        # HAProxy's business alone. (ray/_private/services.py:815: without clusters a node's address is 127.0.0.1.)
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        environment["VLLM_HOST_IP"] = LOOPBACK  # vllm/envs.py:703: the engine's own sockets
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # torch.distributed's, which vLLM on CPU opens even for one process
    return environment


def max_connections() -> int:
    """Returns the connections that HAProxy may hold: `MAX_CONNECTIONS`, or as many as this process may have files for.
    HAProxy 2.8 reckons with two and a half for each (two sockets, and a pipe for each fourth), and some for checks and
    listeners; it does not start where it cannot have them."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, max((files - 500) * 2 // 5, 200))
    )


_PRIVACY = {
    "RAY_USAGE_STATS_ENABLED": "0",  # ray/_common/usage/usage_constants.py:9
    "VLLM_NO_USAGE_STATS": "1",  # vllm/envs.py:813
    "DO_NOT_TRACK": "1",  # vllm/envs.py:817, and a convention that other tools follow
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub/constants.py:244
}
"""Variables that turn usage reports of Ray, vLLM and other libraries off."""


def _paths(instance: Instance) -> dict[str, str]:
    """Returns the paths of HAProxy's files. Ray's defaults are fixed names below /tmp/haproxy-serve (C:777 to 799,
    1044), which two stacks would share."""

    def path(name: str | Path) -> str:
        return str(instance.folder / name)

    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": path(instance.haproxy_config),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": path(instance.admin_socket),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": path("metrics"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(instance.folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": path("server-state"),
    }


def _ports(instance: Instance) -> dict[str, str]:
    """Returns the ports of `serving.launch.ports` as Ray's variables."""
    ports = instance.ports
    return {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.exporter),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports.replicas + REPLICA_PORTS - 1),
    }
