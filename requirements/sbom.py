"""Writes bills of materials (SBOM, CycloneDX in JSON) of the CPU environment and the GPU image. Run by `make sbom`.

    python requirements/sbom.py ENVIRONMENT FOLDER

CycloneDX's own generator runs in a throwaway environment (`sbom.txt`), so that it is no part of what it lists. The CPU
environment is looked at as it is installed: each component with its licences and what it depends on; the hashes of its
files come from `cpu.txt`. The GPU image's components, with hashes, come from `gpu.txt`. Both name this project and its
version, and neither holds a time or a random number: the same input makes the same file.
"""

import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import steps
from environment import TORCH_INDEX
from locked import canonical
from steps import StepFailure
from tools import environment_of

HERE = Path(__file__).resolve().parent
PYPROJECT = HERE.parent / "pyproject.toml"
SPECIFICATION = "1.6"

UNLISTED = frozenset({"pip"})
"""What is in an environment and no list: it comes with Python."""

VALIDATE = f"""\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
text = open(sys.argv[1], encoding="utf-8").read()
found = JsonStrictValidator(SchemaVersion.from_version({SPECIFICATION!r})).validate_str(text)
sys.exit(0 if found is None else str(found))
"""

Bill = dict[str, Any]

ADVICE = "`make clean environment` makes it anew"


def generate(python: str, kind: str, source: Path) -> Bill:
    """The bill that the generator makes of an environment's Python or a list of requirements.

    Raises:
        StepFailure: it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "bom.json"
        steps.run(
            [
                # It warns that a list of requirements states no dependencies.
                *(python, "-W", "ignore", "-m", "cyclonedx_py", kind, str(source), "--pyproject", str(PYPROJECT)),
                *("--spec-version", SPECIFICATION, "--output-reproducible", "--output-file", str(written)),
            ],
            f"no bill of materials could be made of {source} (see above)",
        )
        bill: Bill = json.loads(written.read_text(encoding="utf-8"))
        return bill


def distributions(listed: Bill) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name → version and reference to the distribution, with the hashes, of each component of a list's bill."""
    found = {}
    for component in listed["components"]:
        (reference,) = (each for each in component["externalReferences"] if each["type"] == "distribution")
        if "+" in component["version"]:
            # A local build is on no other index.
            reference = reference | {"url": f"{TORCH_INDEX}/{component['name']}/"}
        found[canonical(component["name"])] = (component["version"], reference)
    return found


def joined(installed: Bill, listed: Bill) -> Bill:
    """The bill of an environment in which each component also has the hashes of its list's bill.

    Raises:
        StepFailure: the environment lacks a listed package, has it in another version, or has one that is not listed.
    """
    missing, components = distributions(listed), []
    for component in installed["components"]:
        name, version = canonical(component["name"]), component["version"]
        if name in UNLISTED and name not in missing:
            components.append(component)
            continue
        stated, reference = missing.pop(name, ("", {}))
        if stated != version:
            raise StepFailure(
                f"the environment holds {name} {version}, and its list {stated or 'no such package'}: {ADVICE}"
            )
        components.append(component | {"externalReferences": [*component.get("externalReferences", []), reference]})
    if missing:
        raise StepFailure(f"the environment lacks {', '.join(sorted(missing))} of its list: {ADVICE}")
    return installed | {"components": components}


def write(python: str, bill: Bill, path: Path) -> None:
    """Raises StepFailure, with the file left for a look, if the specification does not admit the bill."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    steps.run([python, "-c", VALIDATE, str(path)], f"{path} is no CycloneDX {SPECIFICATION} (see above)")
    steps.say(f"{path}: {len(bill['components'])} components")


def project() -> Mapping[str, Any]:
    stated: Mapping[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return stated


def main(environment: Path, folder: Path) -> None:
    steps.say("CycloneDX's generator, in an environment of its own")
    with environment_of(HERE / "sbom.txt") as python:
        listed = {name: generate(python, "requirements", HERE / f"{name}.txt") for name in ("cpu", "gpu")}
        installed = generate(python, "environment", environment / "bin" / "python")
        stem = f"{project()['name']}-{project()['version']}"
        write(python, joined(installed, listed["cpu"]), folder / f"{stem}-cpu.cdx.json")
        write(python, listed["gpu"], folder / f"{stem}-gpu.cdx.json")


if __name__ == "__main__":
    steps.NAME = "sbom"
    try:
        main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
    except StepFailure as failure:
        sys.exit(steps.line(str(failure)))
