"""Keeps a Serve replica's own gRPC server off the network.

Ray Serve 2.60 opens one in every replica, for calls between deployments, on every interface and a random port, whatever
`http_options` and the node's address say (`ray/serve/_private/replica.py:1835`: `add_port_to_grpc_server(self._server,
"[::]:0")`). It takes pickled arguments from whoever connects.
"""

from typing import Any

_EVERY_INTERFACE = "[::]:0"


def keep_grpc_on_loopback() -> None:
    """Call it in a deployment's constructor, which runs before Ray opens the port there. Calling it twice is harmless.

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
