"""The `/v1/task-specs` application for Ray's own `serve run` and `serve deploy`.

In their files: `import_path: serving.task_specs.builder:build`, `route_prefix: /v1/task-specs`.
"""

from collections.abc import Mapping
from pathlib import Path

from ray.serve.deployment import Application

from serving.config import load_config
from serving.task_specs.application import task_specs_application
from specs.errors import InvalidConfig


def build(arguments: Mapping[str, str]) -> Application:
    """Task specifications for the application `learnware`. `arguments`: `config`, the path of the same YAML file that
    the application was built from.

    Raises:
        InvalidConfig: it names no folder for the market, which keeps the specifications and which all nodes must see.
    """
    path = arguments.get("config")
    config = load_config(Path(path) if path else None)
    if config.market.folder is None:
        raise InvalidConfig("the task-specs application needs market.path: a folder that every node sees")
    return task_specs_application(config, config.market.folder, on_loopback=False)
