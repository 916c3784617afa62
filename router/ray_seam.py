"""The router's one touch of Ray Serve internals (2.60.0): asking a deployment handle for a replica without sending to
it."""

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle


def initialise(server: DeploymentHandle[Any]) -> None:
    """Starts the handle's request router now, so that the first request does not wait for it."""
    server._init()


async def choose_replica_id(server: DeploymentHandle[Any]) -> dict[str, Any]:
    """The replica that the deployment's request router picks, as HAProxy's Lua action reads it: host, port and
    replica_id.

    `_reserve=False`, since HAProxy and not this process sends the request: a reserved slot would never be released by
    it.
    """
    async with server.choose_replica(_reserve=False) as selection:
        replica = selection._replica
        host, port = replica.backend_http_endpoint
        return {"host": host, "port": port, "replica_id": replica.replica_id.to_full_id_str()}


def replica_line() -> str:
    """The first line of a replica's metrics: a comment that names it, as `serving.metrics.application` reads it."""
    return f"# replica {serve.get_replica_context().replica_id.unique_id}\n"
