"""The Makefile: signals reach what it starts, it ends after it and never before, and it finds its Python."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT, UV, folder_of_tools, load_program, put_program

PROGRAM = f"""#!{sys.executable}
import pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: got.append(number))
(folder / "started").write_text(" ".join(sys.argv[1:]))
while not got:
    time.sleep(0.02)
time.sleep(0.5)  # as a stack that lets running requests finish
(folder / "ended").write_text(signal.Signals(got[0]).name + f" {{len(got)}}")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished environment with one program, in the place of the command line."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "learnware-serving"
    program.write_text(PROGRAM, encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / ".learnware-complete").write_text("{}", encoding="utf-8")
    return programs


def make_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}


def wait_for(file: Path) -> str:
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, f"no {file.name}"
        time.sleep(0.02)
    return file.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(os.killpg, signal.SIGINT, id="ctrl-c-in-a-terminal"),
        pytest.param(os.kill, signal.SIGTERM, id="terminate-make-alone"),
    ],
)
def test_make_serve_waits_for_the_stack_to_drain(
    folder: Path, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    arguments = ["make", "serve", f"VENV={folder.parent}", "SERVE_ARGS=--port 9000"]
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=make_environment(), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert wait_for(folder / "started") == "serve --config deploy/cpu.yaml --port 9000"
        send(process.pid, number)
        process.wait(30)
        assert (folder / "ended").read_text(encoding="utf-8") == f"{number.name} 1"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_a_finished_environment_is_not_made_again(folder: Path) -> None:
    command = ["make", "--question", "environment", f"VENV={folder.parent}"]
    assert subprocess.run(command, cwd=ROOT, env=make_environment(), check=False).returncode == 0
    os.utime(folder.parent / ".learnware-complete", (0, 0))
    assert subprocess.run(command, cwd=ROOT, env=make_environment(), check=False).returncode == 1


@pytest.fixture
def said(folder: Path) -> Callable[..., list[str]]:
    """Runs `make` with stand-ins for the environment's programs, each of which says how it was called."""
    for name in ("ruff", "mypy", "lint-imports", "python"):
        put_program(folder / name, f'#!/bin/sh\nprintf "ran {name}"; printf " \'%s\'" "$@"; echo\n')

    def run(*arguments: str) -> list[str]:
        command = ["make", f"VENV={folder.parent}", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=make_environment(), capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.splitlines()

    return run


def test_what_makes_the_environment_counts_from_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_program(tmp_path / "python", '#!/bin/sh\necho "$MAKE_STARTED"\n')
    command = ["make", "environment", f"VENV={tmp_path / 'environment'}", f"PYTHON={tmp_path / 'python'}"]
    done = subprocess.run(
        command, cwd=ROOT, env=make_environment(), capture_output=True, text=True, check=True, timeout=60
    )
    assert 0 <= time.time() - int(done.stdout) < 60
    monkeypatch.setenv("MAKE_STARTED", str(int(done.stdout) - 1000))
    assert re.match(r"\[environment 10\d\d s\] ", load_program("requirements/steps.py").line("packages"))


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("pytest", '-m "not extra"'),
        ("test", '-m "not extra"'),
        ("quick", '-n 2 --dist worksteal -m "not e2e and not engine and not slow and not vllm and not extra"'),
        ("test-all", "--cov=specs --cov=router --cov=serving --cov-report=term:skip-covered"),
    ],
)
def test_each_target_runs_its_tests(said: Callable[..., list[str]], target: str, arguments: str) -> None:
    lines = [line for line in said(target, "PYTEST_ARGS=-x") if line.startswith("ran ")]
    assert shlex.split(lines.pop()) == shlex.split(f"ran python -m pytest {arguments} -x")
    assert bool(lines) is target.startswith("test")  # lint


COVERED = ["--cov=specs", "--cov=router", "--cov=serving", "--cov-report=term:skip-covered"]


@pytest.mark.parametrize(
    ("target", "further", "options", "more"),
    [("test", " and not extra", [], []), ("test-all", "", COVERED, ["--cov-append"])],
)
def test_what_needs_no_engine_runs_in_two_processes_and_the_rest_after_it_in_one(
    said: Callable[..., list[str]], target: str, further: str, options: list[str], more: list[str]
) -> None:
    alone, shared = [shlex.split(line)[1:] for line in said(target) if line.startswith("ran python")]
    both = ["python", "-m", "pytest"]
    assert alone == [*both, "-n", "2", "--dist", "worksteal", "-m", f"not e2e and not engine{further}", *options]
    assert shared == [*both, "-m", f"(e2e or engine){further}", *options, *more]


def test_the_report_of_coverage_can_be_left_out_and_stays_inside_the_environment(
    said: Callable[..., list[str]], folder: Path
) -> None:
    put_program(folder / "python", '#!/bin/sh\necho "ran $# $COVERAGE_FILE"\n')
    assert said("test-all", "COVERAGE=")[-1] == f"ran 4 {folder.parent}/coverage"


def test_the_tests_of_a_clean_checkout_are_those_of_test_all() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test-all </dev/null"


def test_each_step_is_said_with_the_seconds_since_make_began(said: Callable[..., list[str]]) -> None:
    lines = [line for line in said("pytest", "lint") if line.startswith("[")]
    assert [re.sub(r"(?<= )[ \d]{4} s\]", "N s]", line).partition(" (")[0] for line in lines] == [
        "[test N s] pytest",
        "[lint N s] ruff",
        "[lint N s] mypy",
        "[lint N s] import rules",
    ]


OTHER_PYTHON = f"""#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
exec {sys.executable} "$@"
"""
"""As a Python 3.11 without ensurepip, or one of another version: not what the environment can be made with."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """All of PATH: the few tools that the Makefile uses, and no Python."""
    return folder_of_tools(tmp_path / "programs", "date", "env", "ln", "make", "mkdir", "sed", "sh")


def make_with(programs: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = make_environment() | {"PATH": str(programs)}
    environment.pop("PYTHON", None)
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_no_python_at_all_is_said_before_anything_is_done(programs: Path, tmp_path: Path) -> None:
    done = make_with(programs, "environment", f"VENV={tmp_path / 'environment'}")
    assert done.returncode != 0
    assert "Python 3.11" in done.stderr
    assert "apt install python3.11-venv" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


@pytest.mark.parametrize("target", ["environment", "serve", "pytest"])
def test_where_python_3_11_is_missing_uv_brings_it(programs: Path, folder: Path, target: str) -> None:
    """The environment itself is finished: only its stamp is too old, so that the program has nothing to install."""
    put_program(programs / "python3", OTHER_PYTHON)
    put_program(programs / "uv", UV)
    for name in ("learnware-serving", "python"):
        put_program(folder / name, "#!/bin/sh\n")
    stamp = folder.parent / ".learnware-complete"
    stamp.write_text(json.dumps(load_program("requirements/environment.py").wanted(folder.parent)), encoding="utf-8")
    os.utime(stamp, (0, 0))
    done = make_with(programs, target, f"VENV={folder.parent}")
    assert done.returncode == 0, done.stderr
    assert "[environment" in done.stdout
    assert stamp.stat().st_mtime > 0
    assert Path(f"{folder.parent}-python").is_dir()


def test_where_python_3_11_is_there_none_is_fetched(programs: Path, folder: Path) -> None:
    (programs / "python3.11").symlink_to(Path(sys.executable).resolve())
    put_program(programs / "uv", "#!/bin/sh\nexit 1\n")
    done = make_with(programs, "--dry-run", "environment", f"VENV={folder.parent / 'other'}")
    assert "python3.11 requirements/environment.py" in done.stdout
    assert "requirements/python.py" not in done.stdout


def test_a_python_that_cannot_be_fetched_ends_make(programs: Path, tmp_path: Path) -> None:
    put_program(programs / "python3", OTHER_PYTHON)
    put_program(programs / "uv", "#!/bin/sh\nexit 1\n")
    done = make_with(programs, "serve", f"VENV={tmp_path / 'environment'}")
    assert done.returncode != 0
    assert "apt install python3.11-venv" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty git repository with a Makefile of which `make lint` says that it ran."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    settings = {
        "GIT_CONFIG_GLOBAL": str(tmp_path / "settings"), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    (repository / "Makefile").write_text("lint:\n\t@echo linted; test ! -e wrong\n", encoding="utf-8")
    (repository / "folder").mkdir()
    return repository


def make_hooks(repository: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "-f", str(ROOT / "Makefile"), "hooks"]
    return subprocess.run(
        command, cwd=repository, env=make_environment(), capture_output=True, text=True, check=False, timeout=60
    )


def commit(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["git", "commit", "--quiet", "--allow-empty", "--message", "x"]
    return subprocess.run(command, cwd=folder, env=make_environment(), capture_output=True, text=True, check=False)


def test_make_hooks_lets_lint_decide_about_each_commit(repository: Path) -> None:
    shutil.rmtree(repository / ".git" / "hooks", ignore_errors=True)
    for _ in range(2):
        done = make_hooks(repository)
        assert done.returncode == 0, done.stderr
    committed = commit(repository / "folder")
    assert committed.returncode == 0
    assert "linted" in committed.stdout + committed.stderr
    (repository / "wrong").touch()
    assert commit(repository).returncode != 0


@pytest.mark.parametrize("kind", ["file", "dangling-link"])
def test_make_hooks_leaves_a_hook_of_somebody_else_alone(repository: Path, tmp_path: Path, kind: str) -> None:
    hook = repository / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    if kind == "file":
        put_program(hook, "#!/bin/sh\nexit 0\n")
    else:
        hook.symlink_to(tmp_path / "elsewhere")
    done = make_hooks(repository)
    assert done.returncode != 0
    assert "left alone" in done.stderr
    assert hook.is_symlink() or hook.read_text(encoding="utf-8") == "#!/bin/sh\nexit 0\n"
    assert not (tmp_path / "elsewhere").exists()


def test_make_hooks_writes_nothing_where_other_repositories_look_too(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text(f"[core]\n\thooksPath = {tmp_path / 'shared'}\n", encoding="utf-8")
    done = make_hooks(repository)
    assert done.returncode != 0
    assert "core.hooksPath" in done.stderr
    assert not (tmp_path / "shared").exists()
