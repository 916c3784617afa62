"""`requirements/python.py`: Python 3.11 where there is none, with a stand-in for uv, and no network."""

import ast
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT, UV, folder_of_tools, load_program, put_program

PROGRAM = ROOT / "requirements" / "python.py"

FAILING_UV = """#!/bin/sh
mkdir -p "$UV_PYTHON_INSTALL_DIR/.temp"
echo "error: dns error" >&2
exit 1
"""

BARREN_UV = """#!/bin/sh
mkdir -p "$UV_PYTHON_INSTALL_DIR/cpython-3.11.9-linux-x86_64-gnu/bin"
printf '#!/bin/sh\\nexit 127\\n' >"$UV_PYTHON_INSTALL_DIR/cpython-3.11.9-linux-x86_64-gnu/bin/python3.11"
chmod +x "$UV_PYTHON_INSTALL_DIR/cpython-3.11.9-linux-x86_64-gnu/bin/python3.11"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of PATH, with no uv in it; pip knows no place but the test's own."""
    folder = folder_of_tools(tmp_path / "programs", "chmod", "ln", "mkdir", "sleep", "touch")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_LOG", str(tmp_path / "asked"))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "place" / "environment-python"


def start(folder: Path) -> subprocess.CompletedProcess[str]:
    probe = folder.parent.parent / "probe.py"
    probe.write_text("import sys; print(sys.executable, sys.argv[1:])", encoding="utf-8")
    command = [sys.executable, str(PROGRAM), str(folder), str(probe), "a b"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def fetched(folder: Path) -> Path:
    return folder / "python" / "cpython-3.11.9-linux-x86_64-gnu" / "bin" / "python3.11"


def test_uv_on_path_brings_it_once_and_the_program_runs_with_it(programs: Path, folder: Path, tmp_path: Path) -> None:
    put_program(programs / "uv", UV)
    for _ in range(2):
        done = start(folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{fetched(folder)} ['a b']"
    assert (tmp_path / "asked").read_text(encoding="utf-8").splitlines() == ["python install 3.11"]


@pytest.mark.slow
def test_without_uv_pip_brings_it_for_this_once(programs: Path, folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "uv-99-py3-none-any.whl", "w") as wheel:
        program = zipfile.ZipInfo("uv-99.data/scripts/uv")
        program.external_attr = (stat.S_IFREG | 0o755) << 16
        wheel.writestr(program, UV)
        wheel.writestr("uv-99.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 99\n")
        wheel.writestr("uv-99.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("uv-99.dist-info/RECORD", "")
    done = start(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{fetched(folder)} ['a b']"
    assert not (folder / "uv").exists()


def test_a_python_without_venv_installs_uv_with_its_own_pip(
    monkeypatch: pytest.MonkeyPatch, program: ModuleType, tmp_path: Path
) -> None:
    monkeypatch.setattr(program, "has", lambda *modules: modules == ("pip",))
    commands = []
    monkeypatch.setattr(program.steps, "run", lambda command, failure, **_: commands.append(command))
    assert program.install_uv(tmp_path / "uv") == tmp_path / "uv" / "bin" / "uv"
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[command.index("--target") + 1] == str(tmp_path / "uv")


@pytest.fixture
def program() -> ModuleType:
    return load_program("requirements/python.py")


def test_a_python_with_neither_venv_nor_pip_says_so(
    monkeypatch: pytest.MonkeyPatch, programs: Path, program: ModuleType, folder: Path
) -> None:
    monkeypatch.setattr(program, "has", lambda *modules: False)
    with pytest.raises(program.StepFailure, match="neither venv with ensurepip nor pip"):
        program.interpreter(folder)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uv", "reason"),
    [
        pytest.param(FAILING_UV, "dns error", id="offline"),
        pytest.param(BARREN_UV, "no Python 3.11 that runs here", id="unusable-python"),
        pytest.param(None, "pip could not get uv", id="no-uv"),
    ],
)
def test_a_failure_says_what_to_install_and_leaves_nothing(
    programs: Path, folder: Path, uv: str | None, reason: str
) -> None:
    if uv is not None:
        put_program(programs / "uv", uv)
    done = start(folder)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "apt install python3.11-venv" in done.stderr.splitlines()[-1]
    assert not folder.exists()


def test_ended_by_a_signal_it_leaves_nothing(programs: Path, folder: Path, tmp_path: Path) -> None:
    put_program(programs / "uv", '#!/bin/sh\ntouch "$UV_LOG"\nexec sleep 60\n')
    command = [sys.executable, str(PROGRAM), str(folder), "probe.py"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "asked").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert folder.exists()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "stopped" in said
    assert not folder.exists()


def test_what_was_cut_short_is_begun_anew(programs: Path, program: ModuleType, folder: Path) -> None:
    put_program(programs / "uv", UV)
    folder.mkdir(parents=True)
    (folder / program.BEGUN).touch()
    (folder / "left-over").touch()
    assert program.interpreter(folder) == fetched(folder)
    assert not (folder / "left-over").exists()


def test_a_fetched_python_that_no_longer_runs_is_fetched_anew(
    programs: Path, program: ModuleType, folder: Path
) -> None:
    put_program(programs / "uv", UV)
    program.interpreter(folder).unlink()
    assert program.works(program.interpreter(folder))


def test_a_folder_of_somebody_else_is_left_alone(program: ModuleType, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "file").write_text("precious", encoding="utf-8")
    with pytest.raises(program.StepFailure, match="was not made by this program"):
        program.interpreter(folder)
    assert (folder / "file").read_text(encoding="utf-8") == "precious"


def test_lint_passes_over_the_folder_inside_a_checkout_and_outside(program: ModuleType, folder: Path) -> None:
    program.begin(folder)
    (folder / "wrong.py").write_text("import os, sys\n", encoding="utf-8")
    command = [str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", "--isolated", "."]
    outside = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder.parent)
    assert outside.returncode == 0, outside.stdout
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *arguments], check=True, cwd=folder.parent, env=environment)
    listed = subprocess.run(
        ["git", "status", "--short"], check=True, capture_output=True, text=True, cwd=folder.parent, env=environment
    )
    assert listed.stdout == ""


@pytest.mark.parametrize("name", ["python.py", "steps.py"])
def test_what_runs_before_python_3_11_is_there_has_no_newer_syntax(name: str) -> None:
    ast.parse((ROOT / "requirements" / name).read_text(encoding="utf-8"), feature_version=(3, 8))
