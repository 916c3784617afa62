"""What several test modules need."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from serving.launch.ports import check_ports_free, derive_ports
from specs.errors import StartupError

ROOT = Path(__file__).resolve().parent.parent

UV = f"""#!/bin/sh
echo "$@" >>"${{UV_LOG:-/dev/null}}"
[ "$*" = "python install 3.11" ] || exit 2
place="$UV_PYTHON_INSTALL_DIR/cpython-3.11.9-linux-x86_64-gnu"
mkdir -p "$place/bin"
ln -s {Path(sys.executable).resolve()} "$place/bin/python3.11"
ln -s "$place" "$UV_PYTHON_INSTALL_DIR/cpython-3.11-linux-x86_64-gnu"
"""
"""A stand-in for the program uv: the Python that it brings is the tests' own."""


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


def put_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def certificate(folder: Path, name: str) -> Path:
    """A PEM file with a new certificate for a host's name, which only itself vouches for, and with its private key.
    Skips the test where there is no openssl."""
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name}"
    key, issued = folder / "key", folder / "crt"
    made = ["-keyout", str(key), "-out", str(issued), "-addext", f"subjectAltName=DNS:{name}"]
    try:
        subprocess.run([*command.split(), *made], check=True, capture_output=True, timeout=20)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    pem = folder / "both.pem"
    pem.write_text(issued.read_text() + key.read_text())
    return pem


def folder_of_tools(folder: Path, *names: str) -> Path:
    """A new folder with links to these programs alone, which can be the whole of PATH."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None, f"no {name} on PATH"
        (folder / name).symlink_to(found)
    return folder


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
