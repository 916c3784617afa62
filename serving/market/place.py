"""Where a configuration's market lies, and what it begins with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from serving.catalogue import requirements
from serving.config import Config
from serving.edge.instance import plan
from specs.base_geometry import read_layers
from specs.market.store import Market


def market_folder(config: Config) -> Path:
    """`market.path`, else the folder of the stack of this port on this machine, which lasts from its start to its
    next one."""
    return config.market.folder or plan(config.http.host, config.http.port).folder / "market"


def open_market(config: Config, base: Path, folder: Path | None = None) -> Market:
    """The market in `folder`, by default the configuration's, made if absent; `base` is the base model's folder."""
    needed = replace(requirements(config), layers=read_layers(base))
    return Market(folder or market_folder(config), needed)


def fill_market(config: Config, base: Path, say: Callable[[str], None]) -> Path:
    """The folder of the configuration's market, which begins with `learnwares.folder` if it is new.

    Raises:
        InvalidLearnware: one of these is refused.
    """
    market = open_market(config, base)
    market.seed(config.learnwares.path, say)
    return market.root
