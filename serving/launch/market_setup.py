"""The folder of the market of a stack on this machine."""

from pathlib import Path

from serving.config import Config
from serving.launch.instance import plan


def market_folder(config: Config) -> Path:
    """Returns `market.path`, else a folder in the run folder of the stack of this port, which lasts from the stack's
    start to its next one."""
    return config.market.folder or plan(config.http.host, config.http.port).folder / "market"
