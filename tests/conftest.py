"""What holds for every test: one thread in each thread pool, and files that `-m` deselects are not imported."""

import ast
import os
import re
from pathlib import Path

import pytest

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
    # Read when numpy, torch and the tokenizers are imported. Arrays here are small: more threads wait for each other,
    # and on two cores the fast tests took three times as long.
    os.environ.setdefault(pool, "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """True for a test file whose `pytestmark` has a marker that is deselected by name ("not slow and not engine")."""
    expression = config.option.markexpr
    if collection_path.suffix != ".py" or not re.fullmatch(r"not \w+( and not \w+)*", expression):
        return None
    return True if set(re.findall(r"not (\w+)", expression)) & marks_of(collection_path) else None


def marks_of(path: Path) -> set[str]:
    """The markers that the file's `pytestmark` names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]
    ]
    return {mark for value in values for mark in re.findall(r"pytest\.mark\.(\w+)", ast.unparse(value))}
