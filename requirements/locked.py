"""The lists of pinned packages (`cpu.txt` and the others of this folder): how they are read and written.

A list is a requirement file of pip with one package a block, pinned to a version and to the SHA-256 of each file that
may be installed for it:

    name==version \\
        --hash=sha256:… \\
        --hash=sha256:…

Standard library only: `environment.py` reads a list before anything is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from steps import StepFailure

BLOCK = re.compile(
    r"(?P<name>[a-z0-9]+(?:-[a-z0-9]+)*)==(?P<version>\S+)(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)


class Locked(NamedTuple):
    """One pinned package: its version and the SHA-256 values, in hexadecimal, of the files that may be installed."""

    version: str
    hashes: tuple[str, ...]


def read_list(path: Path) -> dict[str, Locked]:
    """The packages of a list by canonical name, in the order of the file.

    Raises:
        StepFailure: an entry has another form, or a package stands there twice.
    """
    packages: dict[str, Locked] = {}
    for entry in entries(path.read_text(encoding="utf-8")):
        found = BLOCK.fullmatch(entry)
        if found is None:
            raise StepFailure(f"{path} holds {entry!r}; an entry is name==version with --hash=sha256:… for each file")
        if found["name"] in packages:
            raise StepFailure(f"{path} names {found['name']} twice")
        packages[found["name"]] = Locked(found["version"], tuple(re.findall(r"[0-9a-f]{64}", found["hashes"])))
    return packages


def entries(text: str) -> list[str]:
    """The logical lines of a requirement file, without comments and with continued lines joined."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def text_of(packages: Mapping[str, Locked]) -> str:
    """The packages in a list's form, sorted by name."""
    return "".join(
        " \\\n    ".join([f"{name}=={package.version}", *(f"--hash=sha256:{value}" for value in package.hashes)]) + "\n"
        for name, package in sorted(packages.items())
    )


def canonical(name: str) -> str:
    """A distribution's name in the one spelling that the lists use (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def comment(text: Iterable[str]) -> str:
    """Lines as comments of a requirement file."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text)
