"""What several test modules need."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def load_program(path: str) -> ModuleType:
    """A Python file that is a program of the repository, not a module of a package. It finds its neighbours, as it
    does when it is run."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.path.insert(0, str((ROOT / path).parent))
    try:
        specification.loader.exec_module(module)
    finally:
        del sys.path[0]
    return module
