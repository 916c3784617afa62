"""The private names of Ray Serve 2.60.0 that replicas of any kind need.

`serving.ray_internals` has the names that only the engine needs.
"""

from collections.abc import Awaitable, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve._private.request_router.common import PendingRequest
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle

_GRPC_PORT_OPENER = "add_port_to_grpc_server"
"""The function by which a replica opens the port of its gRPC server, as `ray/serve/_private/replica.py` names it."""


class RayChanged(Exception):
    """The installed Ray lacks something private that the project stands on: it is not the version this was written
    for."""


def _changed(missing: str, lost: str) -> RayChanged:
    return RayChanged(f"Ray {ray.__version__} {missing}, so {lost}; this project was written for Ray 2.60.0")


def initialise(server: DeploymentHandle[Any]) -> None:
    """Starts the handle's request router now, so that the first request does not wait for it."""
    server._init()


async def choose_replica_id(server: DeploymentHandle[Any]) -> dict[str, Any]:
    """Returns the replica that the deployment's request router picks, as host, port and replica_id.

    `_reserve=False`, since HAProxy and not this process sends the request: a reserved slot would never be released by
    it.
    """
    async with server.choose_replica(_reserve=False) as selection:
        return _address(selection._replica)


class EngineReplicas:
    """The replicas of a deployment as the handle's request router knows them now, by the name that Ray gives each.

    Ray's controller asks each replica for `record_routing_stats` and sends what changed to every handle, as part of the
    list of running replicas; so reading here costs no call.
    """

    def __init__(self, server: DeploymentHandle[Any]) -> None:
        self._server = server

    def reports(self) -> dict[str, Mapping[str, Any]]:
        """Returns each running replica's last report; it is empty before the first."""
        return {name: replica.routing_stats for name, replica in self._known().items()}

    def address(self, name: str) -> dict[str, Any]:
        """Returns host, port and replica_id of this replica.

        Raises:
            KeyError: the replica is not there any more.
        """
        return _address(self._known()[name])

    def call(self, name: str, method: str, *arguments: Any) -> None:
        """Calls a method of one replica and does not wait for it.

        Raises:
            KeyError: the replica is not there any more.
        """
        _, metadata = self._server.options(method_name=method)._init_router_and_get_metadata()
        request = PendingRequest(args=list(arguments), kwargs={}, metadata=metadata, resolved=True)
        self._known()[name].try_send_request(request, with_rejection=False)

    def _known(self) -> dict[str, Any]:
        router = self._server._router._asyncio_router.request_router
        if router is None:  # the controller has not answered yet
            return {}
        return {key.to_full_id_str(): replica for key, replica in router.curr_replicas.items()}


def _address(replica: Any) -> dict[str, Any]:
    host, port = replica.backend_http_endpoint
    return {"host": host, "port": port, "replica_id": replica.replica_id.to_full_id_str()}


def replica_line() -> str:
    """Returns the first line of a replica's metrics, a comment that names it, as `serving.applications.metrics` reads
    it."""
    return f"# replica {serve.get_replica_context().replica_id.unique_id}\n"


async def broadcast_answers(response: DeploymentBroadcastResponse) -> list[Awaitable[Any]]:
    """One awaitable for each replica that a broadcast reached. Ray's public `results_async` awaits them together only.

    Raises:
        RayChanged: Ray no longer shows the replicas' answers one by one.
        DeploymentUnavailableError: the deployment has no running replica.
    """
    results = await _private(response, "_fetch_replica_results_async")()
    return [_private(result, "get_async")() for result in results]


def _private(owner: Any, name: str) -> Any:
    try:
        return getattr(owner, name)
    except AttributeError:
        missing = f"has no {type(owner).__name__}.{name}"
        raise _changed(missing, "replicas cannot be asked one by one (metrics, changes of the market)") from None


def keep_grpc_on_loopback() -> None:
    """Keeps a Serve replica's own gRPC server off the network. Call it in a deployment's constructor, which runs before
    Ray opens the port there. Calling it twice is harmless.

    Ray Serve 2.60 opens one in every replica, for calls between deployments, on every interface and a random port,
    whatever `http_options` and the node's address say (`ray/serve/_private/replica.py:1835`:
    `add_port_to_grpc_server(self._server, "[::]:0")`). It takes pickled arguments from whoever connects.

    For a stack on one machine only: deployments that call each other by gRPC across nodes need the port.

    Raises:
        RayChanged: the replica opens its port in another way, so that it would be open to the network. The deployment
            then fails to start.
    """
    from ray.serve._private import replica

    if not _opens_its_port_there(replica):
        missing = f"does not open a replica's gRPC port by {_GRPC_PORT_OPENER} in Replica._on_initialized"
        raise _changed(missing, "the port would be open on every interface of this machine")
    original = replica.add_port_to_grpc_server
    if getattr(original, "on_loopback", False):
        return

    def add_port(server: Any, address: str) -> Any:
        return original(server, f"127.0.0.1:{address.rpartition(':')[2]}")

    add_port.on_loopback = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = add_port


def _opens_its_port_there(module: Any) -> bool:
    """Whether a replica's start looks the function up in its module, where it can be replaced."""
    start = getattr(getattr(module, "Replica", None), "_on_initialized", None)
    code = getattr(start, "__code__", None)
    return hasattr(module, _GRPC_PORT_OPENER) and code is not None and _GRPC_PORT_OPENER in code.co_names
