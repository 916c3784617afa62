"""Every README.md is true: its commands, links, files, tables, examples and limits."""

import ast
import importlib
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from router import choice
from serving.config import Config
from serving.replica import middleware, request_body
from specs import errors
from tests.support import ROOT

# `help_of` runs modules that another test may have imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")

MAIN = "README.md"
MOST_WORDS = 1_300
MOST_LINES = 150
"""Of the README at the root, with the figures that are written into it: one page."""

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


# Tables that repeat the code


def test_the_reasons_are_those_that_the_code_gives() -> None:
    values = {value for module in (choice, middleware) for value in vars(module).values() if isinstance(value, str)}
    reasons = {value for value in values if value.startswith("base:")}
    documented = [quoted(row[0])[0] for row in table(section(f"serving/{MAIN}", "Reasons"), "value", "meaning")]
    assert sorted(documented) == sorted(reasons | {choice.MATCHED, choice.SESSION, choice.TASK, choice.NAMED})


@pytest.mark.parametrize("reason", each(r"^(base:[a-z-]+|matched|session|named)$"))
def test_a_reason_that_is_named_anywhere_is_in_the_table(reason: str) -> None:
    assert f"| `{reason}` |" in section(f"serving/{MAIN}", "Reasons")


def classes(root: type[errors.LearnwareError]) -> Iterator[type[errors.LearnwareError]]:
    yield root
    for one in root.__subclasses__():
        if one.__module__ == errors.__name__:
            yield from classes(one)


def test_the_errors_are_those_of_the_code() -> None:
    rows = table(section(f"serving/{MAIN}", "Errors"), "class", "status", "`type`", "`code`", "when")
    documented = {quoted(row[0])[0]: (int(row[1]), quoted(row[2])[0], (quoted(row[3]) or [None])[0]) for row in rows}
    assert documented == {one.__name__: (one.status, one.type, one.code) for one in classes(errors.LearnwareError)}
    assert len(rows) == len(documented)


def settings_rows() -> list[Any]:
    found = []
    for name in READMES:
        for key, default in re.findall(r"^\| `([a-z_.]+)` \| `([^`|]*)` \|", TEXTS[name], flags=re.MULTILINE):
            found.append(pytest.param(key, default, id=f"{name}: {key}"))
    return found


@pytest.mark.parametrize(("key", "default"), settings_rows())
def test_a_settings_default_is_the_codes(key: str, default: str) -> None:
    value: Any = Config().model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    assert default == (value if isinstance(value, str) else json.dumps(value))


def test_the_settings_of_the_choice_are_all_there() -> None:
    rows = table(section(f"router/{MAIN}", "Settings of the choice"), "key", "default")
    assert {quoted(row[0])[0] for row in rows} == {
        f"router.selection.{name}" for name in type(Config().router.selection).model_fields
    }


@pytest.mark.parametrize("key", each(rf"^((?:{'|'.join(Config.model_fields)})\.[a-z_.]+)$"))
def test_a_key_that_is_named_exists(key: str) -> None:
    assert is_key(key) or found(key) or (ROOT / "deploy" / key).exists()


def constants() -> list[Any]:
    pattern = r"^\| `((?:specs|router|serving|benchmarks)\.[\w.]+\.[A-Z_]+)` \| ([\d.]+) \|"
    return [
        pytest.param(dotted, value, id=dotted)
        for name in READMES
        for dotted, value in re.findall(pattern, TEXTS[name], flags=re.MULTILINE)
    ]


@pytest.mark.parametrize(("dotted", "value"), constants())
def test_a_constant_has_the_value_that_is_said(dotted: str, value: str) -> None:
    decimals = len(value.partition(".")[2])
    assert round(float(value_of(dotted)), decimals) == float(value)


def value_of(dotted: str) -> Any:
    """A module's constant: as it is written there, without the seconds that importing Ray takes, or else as it is when
    the module is imported."""
    module, _, name = dotted.rpartition(".")
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and ast.unparse(node.targets[0]) == name
        ):
            return node.value.value
    return getattr(importlib.import_module(module), name)


def test_there_are_constants_and_settings_to_hold() -> None:
    assert len(constants()) > 20
    assert len(settings_rows()) > 20


def test_what_is_made_from_what_is_where_the_table_says() -> None:
    for row in table(section(f"router/{MAIN}", "What is made from what"), "value", "made by", "holds"):
        source = "".join((ROOT / path).read_text(encoding="utf-8") for path in quoted(row[1]))
        for name in quoted(row[0]):
            assert re.search(rf"\b{name}\b", source), name


def test_every_path_that_generates_and_every_route_of_ours_is_in_the_table() -> None:
    from serving.applications import market, metrics, task_specs
    from serving.names import GENERATING_PATHS

    rows = table(section(f"serving/{MAIN}", "HTTP API"), "method and path", "what it does", "`auto`")
    documented = [(one.split()[0], one.split()[1], row[2]) for row in rows for one in quoted(row[0])]
    choosing = {path for _, path, auto in documented if auto in ("yes", "refused")}
    assert choosing == {*GENERATING_PATHS, request_body.EXPLAIN_PATH}
    for module, prefix in ((market, market.ROUTE_PREFIX), (task_specs, task_specs.ROUTE_PREFIX)):
        routes = set(re.findall(r'methods=\["([A-Z]+)"\]', Path(str(module.__file__)).read_text(encoding="utf-8")))
        assert routes == {method for method, path, _ in documented if path.startswith(prefix)}
    assert ("GET", metrics.ROUTE_PREFIX) in {(method, path) for method, path, _ in documented}


# The private seams


def seams() -> list[list[str]]:
    return table(
        section(f"serving/{MAIN}", "Private seams"), "what is touched", "where", "what guards it", "at an upgrade"
    )


@pytest.mark.parametrize("row", [pytest.param(row, id=row[0].partition(":")[0]) for row in seams()])
def test_a_seam_is_where_the_table_says_and_is_guarded(row: list[str]) -> None:
    touched, where, guards, _ = row
    sources = [(ROOT / path).read_text(encoding="utf-8") for path in quoted(where)]
    assert sources
    for name in quoted(touched):
        assert any(name in source for source in sources), name
    assert quoted(guards)
    for test in quoted(guards):
        assert test.startswith("tests/")
        assert "def test_" in (ROOT / test).read_text(encoding="utf-8")


INTERNAL = re.compile(r"ray\.(?:\w+\.)*_\w+|vllm\.(?:v1|lora|distributed)\b")
"""Imports of what Ray marks as private, and of vLLM's engine, which promises nothing."""


def test_every_module_that_touches_what_is_private_is_in_the_table() -> None:
    listed = {path for row in seams() for path in quoted(row[1])}
    touching = set()
    for package in ("serving", "router"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and INTERNAL.match(node.module or ""):
                    touching.add(path.relative_to(ROOT).as_posix())
    assert touching
    assert touching <= listed


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
