"""Where a configuration's market lies, and what it begins with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from serving.catalogue import requirements
from serving.config import Config
from serving.edge.instance import plan
from specs.base_geometry import read_layers
from specs.market.checks import Requirements
from specs.market.store import Market


def market_folder(config: Config) -> Path:
    """`market.path`, else the folder of the stack of this port on this machine, which lasts from its start to its
    next one."""
    return config.market.folder or plan(config.http.host, config.http.port).folder / "market"


def market_requirements(config: Config, base: Path) -> Requirements:
    """What a learnware must be to come into the configuration's market; `base` is the base model's folder."""
    return replace(requirements(config), layers=read_layers(base))


def fill_market(config: Config, base: Path, say: Callable[[str], None]) -> Path:
    """The folder of the configuration's market, which begins with `learnwares.folder` if it is new.

    Raises:
        InvalidLearnware: one of these is refused.
    """
    market = Market(market_folder(config), market_requirements(config, base))
    market.seed(config.learnwares.path, say)
    return market.root
