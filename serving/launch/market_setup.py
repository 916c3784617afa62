"""Where the market of a stack on this machine lies."""

from pathlib import Path

from serving.config import Config
from serving.launch.instance import plan


def market_folder(config: Config) -> Path:
    """`market.path`, else the folder of the stack of this port on this machine, which lasts from its start to its
    next one."""
    return config.market.folder or plan(config.http.host, config.http.port).folder / "market"
