"""`requirements/environment.py`: what makes `.venv`, on a real virtual environment with a tiny list of packages."""

import io
import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import load_program

TORCH = "torch==2.13.0+cpu"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The program, told of a list with PyTorch alone, and a pip that knows no place but the test's own."""
    program = load_program("requirements/environment.py")
    lock = program.PROJECT / "requirements" / "cpu.txt"
    assert TORCH in lock.read_text(encoding="utf-8").splitlines()
    small = tmp_path / "cpu.txt"
    small.write_text(TORCH + "\n", encoding="utf-8")
    monkeypatch.setattr(program, "LOCK", small)
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


def put_wheel(folder: Path) -> None:
    """A wheel with PyTorch's name and version, and its entry on the index page."""
    name = "torch-2.13.0+cpu-py3-none-any.whl"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        info = "torch-2.13.0+cpu.dist-info"
        wheel.writestr("torch/__init__.py", f"origin = {folder.parent.name!r}\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (folder / name).write_bytes(content.getvalue())
    link = f'<a href="{name.replace("+", "%2B")}">{name}</a>'
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>", encoding="utf-8")


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
    for place in available:
        put_wheel(tmp_path / place / "torch")
    program.install_packages(environment)
    assert origin_of_torch(environment) == available[0]


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
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, quietly: bool
) -> None:
    runs = []

    def record(command: list[str], **settings: object) -> subprocess.CompletedProcess[str]:
        runs.append((command, settings))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(program.steps, "on_terminal", lambda: terminal)
    monkeypatch.setattr(program.steps.subprocess, "run", record)
    program.pip(tmp_path, "torch", quietly=quietly)
    ((command, settings),) = runs
    assert ("--quiet" in command) is not terminal
    assert (settings["stdout"] is None) is (terminal or not quietly)
    assert (settings["stderr"] is None) is not quietly
