"""Every README.md is true: its commands, links, files, tables, examples and limits."""

import ast
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from functools import cache

import pytest

from serving.config import Config
from tests.readmes import (
    ALL_CODE,
    MAIN,
    PACKAGES,
    READMES,
    TEXTS,
    blocks,
    each,
    found,
    is_key,
    prose,
    quoted,
    section,
    table,
)
from tests.support import ROOT

# `help_of` runs modules that another test may have imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")

MOST_WORDS = 1_300
MOST_LINES = 150
"""Of the README at the root, with the figures that are written into it: one page."""


def environment() -> dict[str, str]:
    """Without the variables that a surrounding `make test` sets for its own children."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}


@cache
def help_of(*command: str) -> str:
    """What `python -m COMMAND --help` prints, run in this process: starting Python for each would take minutes."""
    module, *arguments = command
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments, "--help"])
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
            patch.setenv(name, "1")  # or `benchmarks.routing` starts itself anew
        with redirect_stdout(said), pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    return said.getvalue()


def command_help(*arguments: str) -> str:
    return help_of("serving.cli", *arguments)


def test_every_package_has_a_readme_and_the_one_at_the_root_links_it() -> None:
    assert set(READMES) == {MAIN, *(f"{package}/{MAIN}" for package in PACKAGES if package != "requirements")}
    for name in set(READMES) - {MAIN}:
        assert f"]({name})" in TEXTS[MAIN], name


def test_the_readme_at_the_root_is_one_page() -> None:
    assert len(TEXTS[MAIN].split()) <= MOST_WORDS
    assert TEXTS[MAIN].count("\n") <= MOST_LINES


def test_the_two_commands_come_first() -> None:
    assert [line.split("#")[0].strip() for line in blocks(MAIN)[0][1].splitlines()] == ["make serve", "make test"]


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    outside = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", outside, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


PROSE = {name: prose(name) for name in READMES}


LINKS = [(name, link) for name, text in PROSE.items() for link in sorted(set(re.findall(r"\]\(([^)\s]+)\)", text)))]


@pytest.mark.parametrize(("name", "link"), [pytest.param(*both, id=": ".join(both)) for both in LINKS])
def test_a_link_leads_somewhere(name: str, link: str) -> None:
    if "://" in link:
        return
    path, _, anchor = link.partition("#")
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8"))


def test_headings_of_one_readme_differ() -> None:
    for name, text in PROSE.items():
        headings = re.findall(r"^#+ +(.+?) *$", text, flags=re.MULTILINE)
        assert len(headings) == len(set(headings)), name


# Files and names


@pytest.mark.parametrize("path", each(rf"(?<![\w./-])((?:{'|'.join(PACKAGES)}|\.ci)/[\w./-]*\w(?:\.\w+|/))(?![\w<{{])"))
def test_a_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("dotted", each(r"(?<![\w./])((?:specs|router|serving|benchmarks)(?:\.\w+)+)\b"))
def test_a_module_that_is_named_exists(dotted: str) -> None:
    assert found(dotted) is not None or is_key(dotted)


# Commands


@pytest.mark.parametrize("target", each(r"(?<!spec )\bmake ([a-z][a-z-]*)"))
def test_a_documented_make_target_exists(target: str) -> None:
    command = ["make", "--dry-run", target]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr


def test_make_help_names_every_documented_target() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=60)
    shown = set(re.findall(r"^make ([a-z-]+)", done.stdout, flags=re.MULTILINE))
    documented = {
        target for text in ALL_CODE.values() for target in re.findall(r"(?<!spec )\bmake ([a-z][a-z-]*)", text)
    }
    assert documented - {"help", "pytest"} <= shown
    assert {"serve", "test", "test-all", "quick", "lint", "hooks", "bench", "lock", "clean"} <= documented & shown


COMMANDS = r"^(?:.*/)?(?:eval \"\$\(\S*)?(learnware-serving [a-z].*?)[\")…]*$"


@pytest.mark.parametrize("line", each(COMMANDS))
def test_a_documented_subcommand_has_its_options(line: str) -> None:
    words = shlex.split(re.split(r"\s{2,}#", line)[0])[1:]
    subcommand, *rest = words
    text = command_help(subcommand)
    if rest and "COMMAND ..." in text.splitlines()[0]:  # of which there are several
        text = command_help(subcommand, rest[0])
    for option in (word for word in rest if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), option


OPTIONS = r"`(--[a-z][a-z-]+)`"


@pytest.mark.parametrize("option", each(OPTIONS, {f"serving/{MAIN}": section(f"serving/{MAIN}", "Training")}))
def test_an_option_of_training_and_scoring_exists(option: str) -> None:
    assert any(option in command_help(command) for command in ("train", "score", "matrix", "measure"))


def test_every_subcommand_can_say_what_it_does() -> None:
    names = re.findall(r"^    ([a-z][a-z-]*)(?:\s|$)", command_help(), flags=re.MULTILINE)
    assert {"serve", "check", "environment", "config", "train", "market"} <= set(names)
    for name in names:
        assert "usage:" in command_help(name)


NO_FIGURES = {"benchmarks.tables", "benchmarks.starter_rows"}
"""They measure nothing: one writes the tables of figures, the other makes rows."""


BENCHMARKS = [
    pytest.param(*one.values, id=one.id, marks=[pytest.mark.slow] if "lora_ops" in one.values[0] else [])
    for one in each(r"python -m (benchmarks\.\w+[^`\n]*)")
]
"""`lora_ops` imports vLLM's layers to say its options."""


@pytest.mark.parametrize("line", BENCHMARKS)
def test_a_documented_benchmark_exists_and_has_its_options(line: str) -> None:
    module, *rest = shlex.split(line)
    if module == "benchmarks.NAME":
        return
    base = ROOT.joinpath(*module.split("."))
    assert base.with_suffix(".py").is_file() or (base / "__main__.py").is_file()
    shown = help_of(module)
    for option in [word for word in rest if word.startswith("--")]:
        assert option in shown
    assert "--json" in shown or module in NO_FIGURES


def test_every_benchmark_is_documented() -> None:
    folder = ROOT / "benchmarks"
    commands = {path.parent.name for path in folder.glob("*/__main__.py")}
    commands |= {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    documented = set(re.findall(r"python -m benchmarks\.(\w+)", TEXTS[f"benchmarks/{MAIN}"]))
    assert commands - {"__init__"} <= documented


# Examples


def test_python_examples_are_python() -> None:
    examples = [text for name in READMES for language, text in blocks(name) if language == "python"]
    assert examples
    for example in examples:
        ast.parse(example)


def test_bodies_to_paste_ask_for_a_model_that_is_served() -> None:
    bodies = [json.loads(text) for text in re.findall(r"-d '(\{.*?\})'", "\n".join(ALL_CODE.values()), flags=re.DOTALL)]
    starters = {path.name for path in (ROOT / "serving/starter_learnwares").iterdir()}
    assert len(bodies) >= 2
    for body in bodies:
        assert body["model"] in {"auto", "SmolLM2-135M-Instruct", *starters}
        assert body["messages"][-1]["role"] == "user"


def test_the_table_of_models_names_what_is_served() -> None:
    cells = [quoted(row[0])[0] for row in table(TEXTS[MAIN], "`model`") if "such as" not in row[0]]
    assert cells == [Config().router.auto_names[0], Config().base_model.served_id, "task:…"]
    (example,) = [quoted(row[0]) for row in table(TEXTS[MAIN], "`model`") if "such as" in row[0]]
    assert (ROOT / "serving/starter_learnwares" / example[0]).is_dir()


# What stands beside the pages


def test_the_markers_are_those_of_the_project() -> None:
    rows = table(section(f"tests/{MAIN}", "Markers"), "marker", "what it says", "in")
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    declared = {line.partition(":")[0] for line in options["markers"]}
    assert {name for row in rows for name in quoted(row[0])} == declared


def test_blocks_of_figures_are_whole_and_named_once_a_page() -> None:
    for name, text in PROSE.items():
        marks = re.findall(r"^<!-- (figures: \w+|/figures) -->$", text, flags=re.MULTILINE)
        assert all(mark.startswith("figures: ") for mark in marks[::2]), name
        assert all(mark == "/figures" for mark in marks[1::2]), name
        assert len(marks) % 2 == 0
        assert len(set(marks[::2])) == len(marks[::2]), name


WRITTEN = re.compile(r"<!-- figures: .*?<!-- /figures -->", flags=re.DOTALL)
MEASURED = re.compile(r"\d\.\d+ (?:ms|s|GB|times)\b|\d ?% (?:of|\()|\(\d[\d.]* to \d[\d.]*\)|± ?\d")
"""How a measured figure looks: decimals with a unit, a share of something, an interval."""


@pytest.mark.parametrize("name", READMES)
def test_measured_figures_stand_in_blocks_that_are_made_from_results(name: str) -> None:
    assert MEASURED.findall(WRITTEN.sub("", prose(name))) == []


def test_the_glossary_is_sorted_and_says_each_term_once() -> None:
    terms = [row[0].casefold() for row in table(section(f"specs/{MAIN}", "Glossary"), "term", "meaning")]
    assert terms == sorted(terms)
    assert len(terms) == len(set(terms))


def test_ci_runs_everything_in_strict_bash() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1].startswith("exec make test")
    subprocess.run(["bash", "-n", str(script)], check=True)
