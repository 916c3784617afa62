"""A small stack of trivial replicas behind Ray Serve, HAProxy and our edge, for `test_edge_stack.py`; no vLLM.

`python edge_stack.py PORT DRAIN_SECONDS`; prints READY, and drains on SIGTERM or Ctrl-C.
"""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from serving.config import Config
from serving.launch.drain import StopSignals, stop_stack
from serving.launch.edge_settings import edge_settings
from serving.launch.environment import instance_environment
from serving.launch.haproxy_admin import wait_until_routed
from serving.launch.instance import LOOPBACK, claim, plan, prepare

KEYS_FILE = "api-keys.json"
"""File name of the key file in the run folder."""
KEY = "the-key-of-the-test"


def write_keys(file: Path, *keys: str) -> None:
    """Writes a key file with these keys."""
    entries = [
        {"name": f"test-{number}", "sha256": hashlib.sha256(key.encode()).hexdigest(), "metrics": True}
        for number, key in enumerate(keys)
    ]
    file.with_suffix(".new").write_text(json.dumps({"format": 1, "keys": entries}))
    file.with_suffix(".new").replace(file)


def say(line: str) -> None:
    print(line, flush=True)


def build(exporter_url: str):
    from fastapi import FastAPI, Request
    from prometheus_client import CollectorRegistry, generate_latest
    from ray import serve
    from starlette.responses import JSONResponse, StreamingResponse

    from router.ray_internals import keep_grpc_on_loopback
    from serving.applications.metrics import metrics_application
    from serving.replica.request_metrics import ReplicaMetrics

    engine_app, router_app = FastAPI(), FastAPI()

    class Metrics:
        def start_metrics(self) -> None:
            keep_grpc_on_loopback()
            self.registry = CollectorRegistry()
            self.metrics = ReplicaMetrics(self.registry)

        async def metrics_text(self) -> str:
            replica = serve.get_replica_context().replica_id.unique_id
            return f"# replica {replica}\n{generate_latest(self.registry).decode()}"

    @serve.deployment(name="engine", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0})
    @serve.ingress(engine_app)
    class Engine(Metrics):
        def __init__(self) -> None:
            self.start_metrics()

        @engine_app.api_route("/v1/completions", methods=["GET", "POST", "PUT"])
        @engine_app.post("/v1/route")
        async def echo(self, request: Request) -> JSONResponse:
            body = await request.body()
            self.metrics.count("base", "base:no-choice")
            return JSONResponse({"headers": dict(request.headers), "bytes": len(body)})

        @engine_app.post("/stream")
        async def stream(self, chunks: int) -> StreamingResponse:
            async def tokens() -> AsyncIterator[bytes]:
                for number in range(chunks):
                    yield f"{number}\n".encode()
                    await asyncio.sleep(0.1)

            return StreamingResponse(tokens(), media_type="text/plain")

        @engine_app.post("/die")
        async def die(self) -> None:
            os._exit(1)

    @serve.deployment(
        name="router", max_ongoing_requests=100, health_check_period_s=1, ray_actor_options={"num_cpus": 0}
    )
    @serve.ingress(router_app)
    class Router(Metrics):
        def __init__(self, server) -> None:
            self.start_metrics()
            self.server = server
            server._init()

        @router_app.post("/internal/route")
        async def route(self, request: Request) -> JSONResponse:
            body = await request.body()
            if body == b"fail":
                return JSONResponse({}, status_code=500)
            if body == b"refuse":
                return JSONResponse({}, 429, {"Retry-After": "7"})
            self.metrics.count("base", "asked")
            async with self.server.choose_replica(_reserve=False) as selection:
                replica = selection._replica
                host, port = replica.backend_http_endpoint
            return JSONResponse(
                {
                    "host": host,
                    "port": port,
                    "replica_id": replica.replica_id.to_full_id_str(),
                    "request_headers": {"x-serve-router-learnware": "chosen"},
                }
            )

    engine = Engine.bind()
    application = engine._with_ingress_request_router(Router.bind(server=engine))
    return application, metrics_application("learnware", ["engine", "router"], exporter_url)


def main(port: int, drain_seconds: float) -> None:
    instance = plan("127.0.0.1", port)
    with claim(instance, say):
        keys = instance.folder / KEYS_FILE
        write_keys(keys, KEY)
        http = {"more_paths": ["/stream", "/die"]}
        config = Config.model_validate({"http": http, "keys": {"file": str(keys)}})
        prepare(instance, edge_settings(instance.host, config))
        os.environ |= instance_environment(instance, router_replicas=2)
        signals = StopSignals()
        try:
            import ray
            from ray import serve

            ray.init(
                address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False
            )
            serve.start(http_options={"host": LOOPBACK, "port": port})
            signals.install()
            application, metrics = build(f"http://127.0.0.1:{instance.ports.exporter}/metrics")
            serve.run_many(
                [
                    serve.RunTarget(application, name="learnware", route_prefix="/"),
                    serve.RunTarget(metrics, name="metrics", route_prefix="/metrics"),
                ]
            )
            say("READY" if wait_until_routed(instance, 15) else "NOT ROUTED")
            signals.stop.wait()
        finally:
            stop_stack(instance, say=say, drain_seconds=drain_seconds, hurry=signals.hurry)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
