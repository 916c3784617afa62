"""The private names of Ray Serve 2.60.0 that replicas of any kind need.

`serving.ray_internals` has the names that only the engine needs.
"""

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve._private.request_router.common import PendingRequest
from ray.serve.handle import DeploymentHandle

_EVERY_INTERFACE = "[::]:0"
"""The address, every interface and a random port, that Ray Serve 2.60.0 opens its gRPC servers on."""


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


def keep_grpc_on_loopback() -> None:
    """Keeps a Serve replica's own gRPC server off the network. Call it in a deployment's constructor, which runs before
    Ray opens the port there. Calling it twice is harmless.

    Ray Serve 2.60 opens one in every replica, for calls between deployments, on every interface and a random port,
    whatever `http_options` and the node's address say (`ray/serve/_private/replica.py:1835`:
    `add_port_to_grpc_server(self._server, "[::]:0")`). It takes pickled arguments from whoever connects.

    For a stack on one machine only: deployments that call each other by gRPC across nodes need the port.
    """
    from ray.serve._private import replica

    original = replica.add_port_to_grpc_server
    if getattr(original, "on_loopback", False):
        return

    def add_port(server: Any, address: str) -> Any:
        return original(server, "127.0.0.1:0" if address == _EVERY_INTERFACE else address)

    add_port.on_loopback = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = add_port
