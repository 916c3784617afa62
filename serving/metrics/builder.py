"""The `/metrics` application for Ray's own `serve run` and `serve deploy`.

In their files: `import_path: serving.metrics.builder:build`.
"""

from collections.abc import Mapping
from pathlib import Path

from ray.serve.deployment import Application

from serving.config import load_config
from serving.edge.ports import derive_ports
from serving.metrics.application import metrics_application
from serving.names import APPLICATION, ENGINE, ROUTER


def build(arguments: Mapping[str, str]) -> Application:
    """Shows the deployments of the application `learnware`. `arguments`: `config`, the path of the same YAML file that
    the application was built from; without it the defaults."""
    path = arguments.get("config")
    config = load_config(Path(path) if path else None)
    exporter = f"http://127.0.0.1:{derive_ports(config.http.port).exporter}/metrics"
    return metrics_application(APPLICATION, [ENGINE, ROUTER], exporter, on_loopback=False)
