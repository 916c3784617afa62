"""Deploys an application of two small replicas from Ray Serve's files for two configurations, one after the other,
under requests; prints what was answered as JSON. `tests.deploy.test_rolling_deploy` runs it in a process of its own.

The proxy, Serve's controller and its build task are the real ones; the replicas only say which limit they were given.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from serving.config import Config
from serving.launch.stack import cluster_environment
from serving.serve_file import configured, serve_file

PATH = "/v1/models"
"""A path that the edge lets through."""
CLIENTS = 4
ANSWER_S = 0.05
SETTLED_S = 4.0
DEADLINE_S = 120.0


def build(arguments: Mapping[str, Any]) -> Any:
    """Two replicas that answer with the configuration's `limits.max_choices` and their process' id."""
    from fastapi import FastAPI
    from ray import serve

    config = configured(arguments)
    app = FastAPI()

    @serve.deployment(
        num_replicas=2,
        max_ongoing_requests=config.engine.max_ongoing_requests,
        graceful_shutdown_timeout_s=config.drain_seconds,
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0},
    )
    @serve.ingress(app)
    class Limited:
        @app.get(PATH)
        async def limit(self) -> dict[str, int]:
            import asyncio

            await asyncio.sleep(ANSWER_S)
            return {"limit": config.limits.max_choices, "pid": os.getpid()}

    return Limited.bind()


def main(folder: Path, port: int) -> None:
    """Starts Serve on `port`; `folder` holds Ray's session."""
    os.environ.update(
        cluster_environment(Config.model_validate({"http": {"port": port}})) | {"RAY_TMPDIR": str(folder)}
    )
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})

    def deploy(limit: int) -> None:
        text = serve_file(Config.model_validate({"http": {"port": port}, "limits": {"max_choices": limit}}))
        file = yaml.safe_load(text.replace("serving.app:build", f"{__spec__.name}:build"))
        del file["applications"][1:]  # the metrics of a stack that is not here
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(file))

    answers: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while not done.is_set():
                try:
                    response = client.get(PATH)
                    answers.append(response.json() if response.status_code == 200 else response.status_code)
                except httpx.HTTPError as error:
                    answers.append(repr(error))

    def settled(limit: int) -> None:
        """Returns when both replicas answered with `limit` and no other one did for a while."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            begin = len(answers)
            time.sleep(SETTLED_S)
            seen = answers[begin:]
            if seen and all(isinstance(each, dict) and each["limit"] == limit for each in seen):
                return
        raise TimeoutError(f"not only limit {limit} is answered: {answers[-5:]}")

    deploy(3)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}{PATH}", timeout=5).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        settled(3)
        first = len(answers)
        deploy(3)
        settled(3)
        unchanged = len(answers)
        deploy(4)
        settled(4)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        serve.shutdown()
        ray.shutdown()
    print(
        "\n" + json.dumps({"before": answers[:first], "again": answers[first:unchanged], "after": answers[unchanged:]})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
