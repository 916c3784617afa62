"""The tables of the READMEs that repeat the code say what the code says."""

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router import choice
from serving.config import Config
from serving.replica import middleware, request_body
from specs import errors
from tests.readmes import MAIN, READMES, TEXTS, each, found, is_key, quoted, section, table
from tests.support import ROOT


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
