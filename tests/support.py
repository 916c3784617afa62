"""What several test modules need."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from serving.edge.ports import check_ports_free, derive_ports
from specs.errors import StartupError

ROOT = Path(__file__).resolve().parent.parent


def load_program(path: str) -> ModuleType:
    """A Python file that is a program of the repository, not a module of a package."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def free_stack_port(candidates: Iterable[int]) -> int:
    """The first HTTP port whose stack finds all its ports free, those that follow from it included.

    Raises:
        OSError: there is none.
    """
    for port in candidates:
        try:
            check_ports_free(derive_ports(port), "127.0.0.1")
        except StartupError:
            continue
        return port
    raise OSError("no HTTP port leaves a stack all its ports")
