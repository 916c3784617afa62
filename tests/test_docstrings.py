"""Names in prose and in strings are names of the code: what a docstring, a comment or a configuration points to exists.

Nothing is imported: modules, classes and what they define are read from the syntax trees of the four packages.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("specs", "router", "serving", "benchmarks")
STANDS_ALONE = PACKAGES
"""Packages whose docstrings stand alone under a hover: none begins with a word that needs the name above it."""
FRAGMENTS = ("Of ", "What ", "Who ", "Whose ", "Where ", "The same ")
TEXTS = ("*.md", "*.yaml", "*.toml", "Makefile")
SKIPPED_FOLDERS = {"results", "node_modules", "build", "dist", "shared"}
OF_THE_PAST = ROOT / "CHANGELOG.md"
"""Names what is gone, for those who must replace it."""

_OURS = rf"(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+"
_IN_BACKTICKS = re.compile(rf"`({_OURS}(?::\w+)?)(?:\(\))?`")
_IMPORT_PATH = re.compile(rf"(?<![\w./-])({_OURS}:\w+)(?![\w/])")
_RUN_MODULE = re.compile(rf"-m[ =]((?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)*)(?![\w/])")
_IN_QUOTES = re.compile(rf"\"({_OURS}(?::\w+)?)\"")
_WHOLE_STRING = re.compile(rf"{_OURS}(?::\w+)?")
_FILE_ENDINGS = frozenset({"css", "html", "json", "jsonl", "log", "md", "py", "svg", "txt", "yaml", "yml", "zip"})


@cache
def modules() -> dict[str, Path]:
    """The file of every module of the four packages, by its dotted name; a package's is its `__init__.py`."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def defined_in(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that statements define at their own level, under `if`, `try` and `with` as well."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name, statement
            case ast.Import() | ast.ImportFrom():
                yield from ((alias.asname or alias.name.split(".")[0], statement) for alias in statement.names)
            case ast.Assign() | ast.AnnAssign():
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                for target in targets:
                    yield from ((n.id, statement) for n in ast.walk(target) if isinstance(n, ast.Name))
            case ast.If() | ast.Try() | ast.With():
                yield from defined_in([child for child in ast.walk(statement) if isinstance(child, ast.stmt)][1:])


def attributes_of(one: ast.ClassDef, module: ast.Module) -> set[str]:
    """What a class and its bases in the same module define, with what their methods set on `self`."""
    names = {name for name, _ in defined_in(one.body)}
    names |= {
        node.attr
        for node in ast.walk(one)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    here = dict(defined_in(module.body))
    for base in one.bases:
        parent = here.get(base.id) if isinstance(base, ast.Name) else None
        if isinstance(parent, ast.ClassDef):
            names |= attributes_of(parent, module)
    return names


@cache
def router_settings() -> frozenset[str]:
    """The keys of the configuration's section `router`, which prose names as `router.…`, too."""
    module = tree(ROOT / "serving" / "config_sections.py")
    (section,) = (node for name, node in defined_in(module.body) if name == "RouterSettings")
    assert isinstance(section, ast.ClassDef)
    return frozenset(name for name, _ in defined_in(section.body))


@cache
def exists(name: str) -> bool:
    """Whether a dotted name, or `module:attribute`, is a module, something that one defines, or a class's attribute."""
    path, colon, attribute = name.partition(":")
    parts = path.split(".") + ([attribute] if colon else [])
    if parts[0] == "router" and len(parts) > 1 and parts[1] in router_settings():
        return True
    length = next(n for n in range(len(parts), -1, -1) if n == 0 or ".".join(parts[:n]) in modules())
    rest = parts[length:]
    if not length or len(rest) > 2:
        return False
    if not rest:
        return True
    module = tree(modules()[".".join(parts[:length])])
    statement = dict(defined_in(module.body)).get(rest[0])
    if statement is None or len(rest) == 1:
        return statement is not None
    return isinstance(statement, ast.ClassDef) and rest[1] in attributes_of(statement, module)


def is_meant(name: str) -> bool:
    """Whether a dotted word is meant as a name of the code: not the name of a file, nor a placeholder for any name."""
    return name.rpartition(".")[2] not in _FILE_ENDINGS | {"NAME"}


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings, of constants too, and comments of a Python file, each with its line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def strings_of(path: Path) -> Iterator[tuple[int, str]]:
    """The string constants of a Python file that are no docstrings, each with its line."""
    prose = {
        id(node.value)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def text_files() -> Iterator[Path]:
    for folder in (ROOT, ROOT / "deploy", ROOT / "tests", *(ROOT / package for package in PACKAGES)):
        for pattern in TEXTS:
            found = folder.glob(pattern) if folder == ROOT else folder.rglob(pattern)
            yield from (
                path
                for path in found
                if path != OF_THE_PAST and not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)
            )


def names_in_prose(text: str) -> Iterator[str]:
    for pattern in (_IN_BACKTICKS, _IN_QUOTES, _IMPORT_PATH, _RUN_MODULE):
        yield from (match[1] for match in pattern.finditer(text) if is_meant(match[1]))


def names_in_string(text: str) -> Iterator[str]:
    if _WHOLE_STRING.fullmatch(text) and is_meant(text):
        yield text
    yield from names_in_prose(text)


def stale(path: Path, found: Iterator[tuple[int, str]]) -> list[str]:
    place = path.relative_to(ROOT)
    return [f"{place}:{line}: {name}" for line, name in found if not exists(name)]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_in_the_codes_prose_and_strings_exists(package: str) -> None:
    problems: list[str] = []
    for name, path in modules().items():
        if name.partition(".")[0] == package:
            problems += stale(path, ((line, one) for line, text in prose_of(path) for one in names_in_prose(text)))
            problems += stale(path, ((line, one) for line, text in strings_of(path) for one in names_in_string(text)))
    assert problems == []


def test_every_name_in_texts_and_configurations_exists() -> None:
    problems: list[str] = []
    for path in text_files():
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            problems += stale(path, ((line, name) for name in names_in_prose(text)))
    assert problems == []


@pytest.mark.parametrize("package", STANDS_ALONE)
def test_no_docstring_begins_in_the_name_above_it(package: str) -> None:
    fragments = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value.strip().splitlines()[0]}"
        for name, path in modules().items()
        if name.partition(".")[0] == package
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.lstrip().startswith(FRAGMENTS)
    ]
    assert fragments == []


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("specs.rkme", True),
        ("specs.rkme.ReducedSet", True),
        ("specs.rkme:ReducedSet", True),
        ("specs.market.store.Market.stage", True),
        ("router.index.index.SpecificationIndex.exact", True),
        ("router.deadline_ms", True),
        ("serving.cli.__main__:main", True),
        ("benchmarks.privacy", True),
        ("specs.kinds", False),
        ("specs.rkme.Cell", False),
        ("specs.rkme.ReducedSet.colour", False),
        ("specs.market.store.Market.stage.deeper", False),
        ("router.nothing_ms", False),
        ("serving.cli.__main__:nothing", False),
    ],
)
def test_names_are_looked_up_in_the_syntax_trees(name: str, there: bool) -> None:
    assert exists(name) is there


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("see `specs.kinds` and `specs.rkme.gaussian()`", ["specs.kinds", "specs.rkme.gaussian"]),
        ('`worker_cls="serving.engine.worker.Worker"`', ["serving.engine.worker.Worker"]),
        ("import_path: serving.applications.market:app", ["serving.applications.market:app"]),
        ("python -m benchmarks.privacy --rows 20", ["benchmarks.privacy"]),
        ("`specs.json`, /router.index:a and specs.rkme without backticks", []),
    ],
)
def test_names_are_found_in_prose(text: str, names: list[str]) -> None:
    assert list(names_in_prose(text)) == names
