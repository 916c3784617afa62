"""Folders of the project: the starter learnwares, and what can be made again."""

import os
from pathlib import Path

STARTER_FOLDER = Path(__file__).parent / "starter_learnwares"


def cache_folder() -> Path:
    """Returns `$LEARNWARE_CACHE`, else `$XDG_CACHE_HOME/learnware-serving`, else `~/.cache/learnware-serving`, without
    creating it."""
    own = os.environ.get("LEARNWARE_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "learnware-serving"
