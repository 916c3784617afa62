"""`requirements/environment.py`: what makes `.venv`, on a real virtual environment with a tiny list of packages."""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import load_program, put_program

TORCH = "torch==2.13.0+cpu"
NOWHERE = "0" * 64
"""The hash of no file."""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The program, told of a list with PyTorch alone, and a pip that knows no place but the test's own."""
    program = load_program("requirements/environment.py")
    assert f"torch=={program.read_list(program.LOCK)['torch'].version}" == TORCH
    monkeypatch.setattr(program, "LOCK", tmp_path / "cpu.txt")
    write_list(tmp_path / "cpu.txt", {TORCH: set()})
    monkeypatch.setattr(program, "PROJECT", tmp_path)
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "pyproject.toml").write_text("", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index(tmp_path / "configured"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr(program, "TORCH_INDEX", index(tmp_path / "pytorch"))
    return program


def index(folder: Path) -> str:
    """An index that has no torch."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "index.html").write_text("<!DOCTYPE html><html><body></body></html>", encoding="utf-8")
    return folder.as_uri()


def write_list(path: Path, hashes: dict[str, set[str]]) -> None:
    """A list that admits the files with these hashes for each requirement, and one more that is nowhere."""
    blocks = [
        " \\\n    ".join([line, *(f"--hash=sha256:{value}" for value in sorted({*values, NOWHERE}))])
        for line, values in hashes.items()
    ]
    path.write_text("\n".join(blocks) + "\n", encoding="utf-8")


def put_wheel(folder: Path, requirement: str = TORCH, module: str | None = None) -> str:
    """A wheel for this requirement, by default PyTorch's, and its entry on the index page. Returns its SHA-256."""
    name, _, version = requirement.partition("==")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        info = f"{name}-{version}.dist-info"
        wheel.writestr(f"{name}/__init__.py", module or f"origin = {folder.parent.name!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return put_file(folder, f"{name}-{version}-py3-none-any.whl", content.getvalue())


def put_sources(folder: Path, requirement: str, backend: str) -> str:
    """A source distribution that is built with `backend`, and its entry on the index page. Returns its SHA-256."""
    name, _, version = requirement.partition("==")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        build = f"[build-system]\nrequires = ['{backend}']\nbuild-backend = '{backend}'\n"
        entry = tarfile.TarInfo(f"{name}-{version}/pyproject.toml")
        entry.size = len(build)
        archive.addfile(entry, io.BytesIO(build.encode()))
    return put_file(folder, f"{name}-{version}.tar.gz", content.getvalue())


def put_file(folder: Path, name: str, content: bytes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    link = f'<a href="{name.replace("+", "%2B")}">{name}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>", encoding="utf-8")
    return hashlib.sha256(content).hexdigest()


def origin_of_torch(environment: Path) -> str:
    command = [str(environment / "bin/python"), "-c", "import torch; print(torch.origin)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("available", [("configured", "pytorch"), ("pytorch",)], ids=["both", "pytorch-index-only"])
def test_torch_comes_from_the_configured_place_first(
    program: ModuleType, tmp_path: Path, available: tuple[str, ...]
) -> None:
    environment = tmp_path / "environment"
    program.create(environment)
    write_list(program.LOCK, {TORCH: {put_wheel(tmp_path / place / "torch") for place in available}})
    program.install_packages(environment)
    assert origin_of_torch(environment) == available[0]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["configured", "pytorch"])
def test_a_file_with_another_hash_is_refused_in_one_sentence(program: ModuleType, tmp_path: Path, place: str) -> None:
    environment = tmp_path / "environment"
    program.create(environment)
    actual = put_wheel(tmp_path / place / "torch")
    write_list(program.LOCK, {TORCH: {"f" * 64}})
    with pytest.raises(program.StepFailure) as failure:
        program.install_packages(environment)
    sentence = str(failure.value)
    assert sentence.startswith(f"{TORCH} from {(tmp_path / place).as_uri()}/torch/torch-2.13.0")
    assert f"its SHA-256 is {actual}, and cpu.txt admits {NOWHERE} or {'f' * 64}" in sentence
    assert "`make lock`" in sentence
    assert not list(environment.glob("lib/*/site-packages/torch"))


BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/plain-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("plain.py", f"builder = {__file__!r}")
        wheel.writestr("plain-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: plain\\nVersion: 1.0\\n")
        wheel.writestr("plain-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("plain-1.0.dist-info/RECORD", "")
    return "plain-1.0-py3-none-any.whl"
"""


@pytest.mark.slow
def test_sources_are_built_with_the_list_s_own_builder(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip would otherwise fetch the builder into a place of its own, whatever its hash."""
    environment, configured = tmp_path / "environment", tmp_path / "configured"
    monkeypatch.setattr(program, "BUILDERS", ("builder",))
    program.create(environment)
    admitted = {
        "builder==1.0": {put_wheel(configured / "builder", "builder==1.0", BACKEND)},
        "plain==1.0": {put_sources(configured / "plain", "plain==1.0", "builder")},
        TORCH: {put_wheel(configured / "torch")},
    }
    write_list(program.LOCK, admitted)
    program.install_packages(environment)
    (built,) = environment.glob("lib/*/site-packages/plain.py")
    assert f"builder = '{environment}/" in built.read_text(encoding="utf-8")


def test_what_pip_writes_of_other_failures_is_no_refusal(program: ModuleType) -> None:
    assert program.refused("ERROR: No matching distribution found for torch==2.13.0+cpu\n") == ""


@pytest.mark.slow
def test_a_torch_that_is_nowhere_ends_with_both_places_and_what_to_do(program: ModuleType, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    program.create(environment)
    with pytest.raises(program.StepFailure, match=r"PIP_FIND_LINKS.*TORCH_CPU_INDEX") as failure:
        program.install_packages(environment)
    assert program.TORCH_INDEX in str(failure.value)
    assert program.read_stamp(environment) == {}


def test_a_folder_of_somebody_else_is_left_alone(program: ModuleType, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("precious", encoding="utf-8")
    with pytest.raises(program.StepFailure, match="was not made by this program"):
        program.make(theirs)
    assert (theirs / "file").read_text(encoding="utf-8") == "precious"


@pytest.mark.slow
def test_a_half_made_environment_is_made_anew(program: ModuleType, tmp_path: Path) -> None:
    half = tmp_path / "environment"
    half.mkdir()
    (half / program.BEGUN).touch()
    (half / "left-over").touch()
    program.create(half)
    assert not (half / "left-over").exists()
    assert (half / "bin/python").exists()


def test_a_finished_environment_takes_no_work(program: ModuleType, tmp_path: Path) -> None:
    done = tmp_path / "environment"
    done.mkdir()
    (done / program.STAMP).write_text(json.dumps(program.wanted(done)), encoding="utf-8")
    program.make(done)
    assert [file.name for file in done.iterdir()] == [program.STAMP]


@pytest.mark.slow
def test_a_project_that_cannot_be_installed_costs_no_packages(program: ModuleType, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    program.create(environment)
    packages = program.wanted(environment) | {"project": "an earlier one"}
    program.write_stamp(environment, packages)
    (tmp_path / "pyproject.toml").write_text("[project\n", encoding="utf-8")
    with pytest.raises(program.StepFailure, match="pip could not install"):
        program.make(environment)
    assert program.read_stamp(environment)["packages"] == packages["packages"]
    assert (environment / program.STAMP).stat().st_mtime == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_an_unreadable_stamp_counts_as_none(program: ModuleType, tmp_path: Path, text: str) -> None:
    (tmp_path / program.STAMP).write_text(text, encoding="utf-8")
    assert program.read_stamp(tmp_path) == {}


def test_another_python_is_refused(program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 1, "final", 0))
    with pytest.raises(program.StepFailure, match=r"Python 3\.11 is needed"):
        program.make(tmp_path / "environment")


def test_a_line_carries_the_seconds_since_make_began(
    program: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.steps, "STARTED", time.time() - 42.2)
    program.say("packages")
    assert re.fullmatch(r"\[environment   4[2-9] s\] packages\n", capsys.readouterr().out)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
@pytest.mark.parametrize("quietly", [True, False], ids=["quietly", "plainly"])
def test_pip_shows_its_progress_on_a_terminal_alone(
    program: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    terminal: bool,
    quietly: bool,
) -> None:
    (tmp_path / "bin").mkdir()
    put_program(tmp_path / "bin/python", '#!/bin/sh\necho "$@"\necho complaint >&2\nexit 1\n')
    monkeypatch.setattr(program.steps, "on_terminal", lambda: terminal)
    with pytest.raises(program.StepFailure) as failure:
        program.pip(tmp_path, "torch", quietly=quietly)
    assert failure.value.errors == "complaint\n"
    shown = capfd.readouterr()
    assert bool(shown.out) is (terminal or not quietly)
    assert ("--quiet" in shown.out) is (bool(shown.out) and not terminal)
    assert bool(shown.err) is not quietly
