"""The README's commands, code and links are true."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from router import choice
from router.settings import SelectionSettings
from serving.replica import middleware
from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
LINKS = sorted(set(re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)))
CODE = "\n".join([*(text for _, text in BLOCKS), *re.findall(r"`([^`\n]+)`", README)])


def environment() -> dict[str, str]:
    """Without the variables that a surrounding `make test` sets for its own children."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}


@cache
def command_help(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("learnware-serving")), *arguments, "--help"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=60).stdout


def test_the_two_commands_come_first() -> None:
    assert [line.split("#")[0].strip() for line in BLOCKS[0][1].splitlines()] == ["make serve", "make test"]


@pytest.mark.parametrize("link", [link for link in LINKS if "://" not in link])
def test_a_linked_file_exists(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?<!spec )\bmake ([a-z]+)\b", CODE))))
def test_a_documented_make_target_exists(target: str) -> None:
    command = ["make", "--dry-run", target]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"^(?:.*/)?(learnware-serving [a-z].*?)[\")]*$", CODE, flags=re.MULTILINE)))
)
def test_a_documented_subcommand_has_its_options(line: str) -> None:
    subcommand, *rest = shlex.split(line.partition("  #")[0])[1:]
    text = command_help(subcommand)
    if rest and "COMMAND ..." in text.splitlines()[0]:  # of which there are several
        text = command_help(subcommand, rest[0])
    for option in (word for word in rest if word.startswith("--")):
        assert option in text


def test_every_subcommand_can_say_what_it_does() -> None:
    names = re.findall(r"^    ([a-z][a-z-]*)\s", command_help(), flags=re.MULTILINE)
    assert {"serve", "check", "environment"} <= set(names)
    for name in names:
        assert "usage:" in command_help(name)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (benchmarks\.\w+)", README))))
def test_a_documented_benchmark_exists_and_writes_json(module: str) -> None:
    assert importlib.util.find_spec(module) is not None
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert "--json" in done.stdout, done.stderr


FILES = r"(?<![\w/])((?:deploy|requirements|serving|tests|benchmarks)/[\w./-]*\w\.\w+)"


@pytest.mark.parametrize("path", sorted(set(re.findall(FILES, CODE))))
def test_a_file_in_a_command_exists(path: str) -> None:
    assert (ROOT / path).exists()


def section(title: str) -> str:
    return README.partition(f" {title}\n")[2].partition("\n#")[0]


def first_cells(title: str) -> set[str]:
    """What stands as code in the first column of a section's tables."""
    rows = re.findall(r"^\| ([^|]*) \|", section(title), flags=re.MULTILINE)
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def test_the_reasons_are_those_that_the_code_gives() -> None:
    values = {value for module in (choice, middleware) for value in vars(module).values() if isinstance(value, str)}
    reasons = {value for value in values if value.startswith("base:")}
    assert first_cells("Why this answer") == reasons | {choice.MATCHED, choice.SESSION, choice.TASK, choice.NAMED}


def test_the_settings_of_the_choice_have_their_defaults() -> None:
    settings = SelectionSettings()
    rows = re.findall(r"^\| `(min_\w+|resident_margin)` \| ([\d.]+) \|", section("Selection"), flags=re.MULTILINE)
    assert {name: float(default) for name, default in rows} == {
        name: value
        for name, value in settings.model_dump().items()
        if name.startswith("min_") or name == "resident_margin"
    }


def test_python_examples_are_python() -> None:
    examples = [text for language, text in BLOCKS if language == "python"]
    assert examples
    for example in examples:
        ast.parse(example)


def test_the_body_to_paste_asks_for_auto() -> None:
    bodies = [json.loads(text) for text in re.findall(r"-d '(\{.*?\})'", CODE, flags=re.DOTALL)]
    assert [body["model"] for body in bodies] == ["auto"] * len(bodies)
    assert bodies


def test_make_help_names_every_documented_target() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60)
    shown = re.findall(r"^make ([a-z]+)", done.stdout, flags=re.MULTILINE)
    assert {"serve", "test", "lint", "bench", "lock", "clean"} <= set(shown)


def test_ci_runs_make_test_in_strict_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1].startswith("exec make test")
    subprocess.run(["bash", "-n", str(script)], check=True)
