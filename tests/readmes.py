"""The README.md files of the project, taken apart for the tests that hold them to be true."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from serving.config import Config
from tests.support import ROOT

MAIN = "README.md"

HIDDEN = {"starter_learnwares", "build", "dist", "node_modules"}
"""Folders whose README.md, if there is one, is data or not the project's."""


def readmes() -> list[str]:
    """The paths of every README.md of the project, from its root."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("README.md"))
    return sorted(
        path.as_posix()
        for path in found
        if not any(part in HIDDEN or part.startswith(".") or part.endswith("results") for part in path.parts[:-1])
    )


READMES = readmes()
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in READMES}
PACKAGES = ("specs", "router", "serving", "benchmarks", "deploy", "tests", "requirements")


def blocks(name: str) -> list[tuple[str, str]]:
    """The fenced blocks of a README: their language and their text."""
    return re.findall(r"^```(\w*)\n(.*?)^```", TEXTS[name], flags=re.MULTILINE | re.DOTALL)


def prose(name: str) -> str:
    """A README without its fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```", "", TEXTS[name], flags=re.MULTILINE | re.DOTALL)


def code(name: str) -> str:
    """What stands as code in a README, in blocks and in sentences."""
    return "\n".join([*(text for _, text in blocks(name)), *re.findall(r"`([^`\n]+)`", prose(name))])


ALL_CODE = {name: code(name) for name in READMES}


def each(pattern: str, texts: Mapping[str, str] = ALL_CODE) -> list[Any]:
    """A parameter for each distinct match of `pattern`, with the first README that has it in its id."""
    first: dict[str, str] = {}
    for name, text in texts.items():
        for match in re.findall(pattern, text, flags=re.MULTILINE):
            first.setdefault(match, name)
    return [pytest.param(match, id=f"{name}: {match}") for match, name in sorted(first.items())]


def section(name: str, title: str) -> str:
    """The text below a heading, up to the next one. Fails where there is no such heading."""
    _, found, after = TEXTS[name].partition(f"\n## {title}\n")
    assert found, f"{name} has no section {title!r}"
    return after.partition("\n## ")[0]


def table(text: str, *columns: str) -> list[list[str]]:
    """The cells of the table's rows in `text` whose head begins with these columns. Fails where there is none."""
    for found in re.findall(r"(?:^\|.*\|\n)+", text + "\n", flags=re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found.splitlines()]
        if head[: len(columns)] == list(columns):
            return rows
    raise AssertionError(f"no table with the columns {columns}")


def quoted(cell: str) -> list[str]:
    """What stands as code in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def is_key(dotted: str) -> bool:
    """Whether the configuration has this key or section."""
    model: Any = Config()
    for part in dotted.split("."):
        if not isinstance(model, BaseModel) or part not in type(model).model_fields:
            return False
        model = getattr(model, part)
    return True


def found(dotted: str) -> tuple[Path, list[str]] | None:
    """The file of the module that a dotted name begins with, and the rest of the name, which that file must define;
    None where there is no such module or it does not."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:end])
        file = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if file.is_file():
            rest = parts[end:]
            defined = all(re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) for name in rest)
            return (file, rest) if defined and len(rest) <= 1 else None
    return None
