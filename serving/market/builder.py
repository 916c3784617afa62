"""The `/v1/learnwares` application for Ray's own `serve run` and `serve deploy`.

In their files: `import_path: serving.market.builder:build`, `route_prefix: /v1/learnwares`.
"""

from collections.abc import Mapping
from pathlib import Path

from ray.serve.deployment import Application

from serving.base_model import ensure_base_model
from serving.config import load_config
from serving.market.application import market_application
from serving.paths import cache_folder
from specs.errors import InvalidConfig


def build(arguments: Mapping[str, str]) -> Application:
    """The market of the application `learnware`. `arguments`: `config`, the path of the same YAML file that the
    application was built from.

    Raises:
        InvalidConfig: it names no folder for the market, which all nodes must see.
    """
    path = arguments.get("config")
    config = load_config(Path(path) if path else None)
    if config.market.folder is None:
        raise InvalidConfig("the market application needs market.path: a folder that every node sees")
    base = ensure_base_model(config.base_model.source, cache_folder(), print)
    return market_application(config, base, config.market.folder, on_loopback=False)
