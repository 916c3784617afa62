"""What holds for every test: one thread in each thread pool, files that `-m` deselects are not imported, and the same
task model is fitted once."""

import ast
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(autouse=True, scope="session")
def fits_of_task_models() -> Iterator[None]:
    """Keeps what `router.task_model.fit` gives for the same arguments: many tests begin with the starters, and a fit of
    these takes seconds."""
    from router import task_model

    fit, known = task_model.fit, {}

    def remembered(*arguments: Any, **settings: Any) -> task_model.Fitted:
        digest = hashlib.sha256(repr(settings).encode())
        _add(digest, arguments)
        if digest.digest() not in known:
            known[digest.digest()] = fit(*arguments, **settings)
        return known[digest.digest()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_model, "fit", remembered)
        yield


def _add(digest: Any, value: Any) -> None:
    """Adds a value, with all numbers of the arrays in it."""
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, tuple):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for one in value:
            _add(digest, one)
    elif hasattr(value, "tobytes"):
        digest.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
    else:
        digest.update(repr(value).encode())
