"""Builders of the applications beside the endpoint, for Ray's own `serve run` and `serve deploy`.

In their files:

    import_path: serving.serve_builders:market        route_prefix: /v1/learnwares
    import_path: serving.serve_builders:task_specs    route_prefix: /v1/task-specs
    import_path: serving.serve_builders:metrics       route_prefix: /metrics
    import_path: serving.serve_builders:console       route_prefix: /console
    import_path: serving.serve_builders:decisions     route_prefix: /v1/decisions

Each takes the argument `config` of the application `learnware` (`serving.app:build`): the same content, or the path of
the same YAML file. `learnware-serving serve-file` writes them all (`serving.serve_file`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve.deployment import Application

from serving.applications.access import configured_access
from serving.applications.console import console_application
from serving.applications.decisions import decisions_application
from serving.applications.market_server import market_application
from serving.applications.metrics import metrics_application
from serving.applications.task_specs import task_specs_application
from serving.base_model import ensure_base_model
from serving.config import Config
from serving.launch.ports import derive_ports
from serving.names import APPLICATION, ENGINE, ROUTER
from serving.paths import cache_folder
from serving.serve_file import configured
from specs.errors import InvalidConfig


def market(arguments: Mapping[str, Any]) -> Application:
    """Builds `/v1/learnwares`, the market of the application `learnware`.

    Raises:
        InvalidConfig: the configuration names no folder for the market, which all nodes must see.
    """
    config = configured(arguments)
    folder = _market_folder(config, "market")
    base = ensure_base_model(config.base_model.source, cache_folder(), print, config.base_model.revision)
    return market_application(config, base, folder, on_loopback=False)


def task_specs(arguments: Mapping[str, Any]) -> Application:
    """Builds `/v1/task-specs`, the task specifications for the application `learnware`.

    Raises:
        InvalidConfig: the configuration names no folder for the market, which keeps the specifications and which all
            nodes must see.
    """
    config = configured(arguments)
    return task_specs_application(config, _market_folder(config, "task-specs"), on_loopback=False)


def metrics(arguments: Mapping[str, Any]) -> Application:
    """Builds `/metrics`, which shows the deployments of the application `learnware`."""
    config = configured(arguments)
    exporter = f"http://127.0.0.1:{derive_ports(config.http.port).exporter}/metrics"
    access = configured_access(config)
    return metrics_application(APPLICATION, [ENGINE, ROUTER], exporter, on_loopback=False, access=access)


def decisions(arguments: Mapping[str, Any]) -> Application:
    """Builds `/v1/decisions`, the log of decisions of the application `learnware`."""
    config = configured(arguments)
    return decisions_application(config, config.market.folder, on_loopback=False)


def console(arguments: Mapping[str, Any]) -> Application:
    """Builds `/console`, the pages in the browser."""
    config = configured(arguments)
    exporter = f"http://127.0.0.1:{derive_ports(config.http.port).exporter}/metrics"
    return console_application(config, exporter, on_loopback=False)


def _market_folder(config: Config, application: str) -> Path:
    if config.market.folder is None:
        raise InvalidConfig(f"the {application} application needs market.path: a folder that every node sees")
    return config.market.folder
