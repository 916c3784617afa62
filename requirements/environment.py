"""Makes the CPU environment: a virtual environment with exactly the packages of `cpu.txt` and this project, editable.

    python3.11 requirements/environment.py .venv

Runs on a bare Python 3.11 (standard library only; where there is none, `python.py` fetches one) and is safe to cut
short at any moment: the stamp is written last, and a folder that this program began and did not finish is made anew.
With a finished one it takes no time; when only the list of packages changed, pip is asked for the difference. A folder
that somebody else made is left alone, with a message.

Packages are installed with `--no-deps`: the list is complete, and it leaves out what some packages ask for without
need (see `lock.py`). Each file must have a hash of the list; what comes as sources alone is built with the list's own
setuptools, so that nothing else is fetched for it. PyTorch's CPU build is looked for first where pip is configured to
look, and only if it is not there on PyTorch's own index: a machine that already has the wheel needs no network for it,
and no other package comes from that index.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import steps
from locked import Locked, canonical, read_list, text_of
from steps import StepFailure, run, say

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
LOCK = HERE / "cpu.txt"
TORCH_INDEX = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")
BEGUN, STAMP = ".learnware-begun", ".learnware-complete"
BUILDERS = ("setuptools",)
"""What packages that come as sources alone are built with: installed before them."""

PIP_OPTIONS = ("--no-deps", "--no-compile", "--no-build-isolation")
"""`--no-compile`: compiling everything takes nearly as long as fetching and unpacking it (77 s on two cores,
after 104 s); Python compiles the modules that are used at their first import. `--no-build-isolation`: otherwise pip
fetches what it builds with, unpinned."""

USED_AT_START = (
    "ray.serve.llm",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "transformers",
    "peft",
)
"""What a start imports. Imported once here, so that the stack's processes don't all compile it at the same time."""


def wanted(folder: Path) -> dict[str, str]:
    """What a finished environment was made from. The path is part of it: scripts of a moved one point nowhere."""
    return {
        "folder": str(folder),
        "python": sys.version.split()[0],
        "packages": hashlib.sha256(LOCK.read_bytes()).hexdigest(),
        "project": hashlib.sha256((PROJECT / "pyproject.toml").read_bytes()).hexdigest(),
    }


def read_stamp(folder: Path) -> dict[str, str]:
    """The stamp of a finished environment; empty when it has none, or one that cannot be read."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, stamp: dict[str, str]) -> None:
    """In one step: a cut leaves the earlier stamp or this one."""
    fresh = folder / (STAMP + ".new")
    fresh.write_text(json.dumps(stamp), encoding="utf-8")
    fresh.replace(folder / STAMP)


def make(folder: Path) -> None:
    """Leaves a complete environment at `folder`.

    Raises:
        StepFailure: wrong Python, a folder that is not ours, or pip failed.
    """
    if sys.version_info[:2] != (3, 11):
        raise StepFailure(f"Python 3.11 is needed; this is {sys.version.split()[0]}")
    want, have = wanted(folder), read_stamp(folder)
    if have == want:
        (folder / STAMP).touch()
        return
    if any(have.get(key) != want[key] for key in ("folder", "python")):
        create(folder)
        have = {}
    if have.get("packages") != want["packages"]:
        (folder / STAMP).unlink(missing_ok=True)
        install_packages(folder)
        say("compiling what a start imports")
        run(
            [
                python_of(folder),
                "-c",
                f"import os; os.environ['VLLM_LOGGING_LEVEL'] = 'ERROR'; import {', '.join(USED_AT_START)}",
            ],
            "the packages cannot be imported (see above)",
        )
    # Complete but for the project: make must come back, and need not begin anew.
    write_stamp(folder, want | {"project": ""})
    os.utime(folder / STAMP, (0, 0))
    say("this project, editable")
    pip(folder, "--editable", str(PROJECT))
    write_stamp(folder, want)
    say("complete")


def create(folder: Path) -> None:
    """A new, empty virtual environment, in place of one that was begun and not finished, or that belongs elsewhere."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / BEGUN).exists():
            raise StepFailure(
                f"{folder} was not made by this program: remove it, or name another folder (make VENV=folder …)"
            )
        say(f"{folder.name} is incomplete or from elsewhere: made anew")
        shutil.rmtree(folder)
    say(f"virtual environment {folder.name} with Python {sys.version.split()[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BEGUN).touch()
    run(
        [sys.executable, "-m", "venv", str(folder)],
        "Python cannot make virtual environments (on Debian: python3.11-venv)",
    )


def install_packages(folder: Path) -> None:
    """Everything of the list: PyTorch first, since it alone may come from elsewhere, then the others.

    Raises:
        StepFailure: pip failed, or a file has none of the hashes that the list admits for it.
    """
    packages = read_list(LOCK)
    torch = f"torch=={packages['torch'].version}"
    say(f"{torch}, from where pip is configured to look")
    try:
        install(folder, packages, ["torch"], quietly=True)
    except StepFailure as failure:
        if refused(failure.errors):
            raise
        say(f"not there: from PyTorch's CPU index {TORCH_INDEX}")
        try:
            install(folder, packages, ["torch"], "--index-url", TORCH_INDEX)
        except StepFailure as other:
            if refused(other.errors):
                raise
            raise StepFailure(
                f"no {torch} for this machine, neither where pip is configured to look nor at {TORCH_INDEX}. Put the "
                "wheel into a folder and name it in PIP_FIND_LINKS, or name a mirror in TORCH_CPU_INDEX."
            ) from None
    say(f"{len(packages)} packages of {LOCK.relative_to(PROJECT)} (about two minutes)")
    install(folder, packages, [name for name in BUILDERS if name in packages])
    install(folder, packages, packages)
    remove_strangers(folder, set(packages))


def install(
    folder: Path, packages: Mapping[str, Locked], names: Iterable[str], *options: str, quietly: bool = False
) -> None:
    """The packages called `names`, in the version and with one of the hashes that the list states.

    Raises:
        StepFailure: pip failed; a file with another hash is named, with those that the list admits for it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        chosen = Path(scratch) / LOCK.name
        chosen.write_text(text_of({name: packages[name] for name in names}), encoding="utf-8")
        if not chosen.stat().st_size:
            return
        try:
            pip(folder, "--require-hashes", "--requirement", str(chosen), *options, quietly=quietly)
        except StepFailure as failure:
            raise StepFailure(refused(failure.errors) or str(failure), failure.errors) from None


def refused(errors: str) -> str:
    """One sentence about the first file that pip refused for its hash, from what pip wrote; empty if it refused none.

    pip writes the requirement with its file, a line for each hash that was expected, and one for that of the file.
    """
    found = re.search(
        r"^ +(?P<file>\S+==\S+(?: from \S+)?).*:\n(?P<expected>(?: +Expected .*\n)+) +Got +(?P<got>\w+)",
        errors,
        re.MULTILINE,
    )
    if found is None:
        return ""
    expected = " or ".join(re.findall(r"\b[0-9a-f]{64}\b", found["expected"]))
    return (
        f"{found['file']} was refused: its SHA-256 is {found['got']}, and {LOCK.name} admits {expected}. Remove that "
        "file from where pip found it; if another build is meant, `make lock` writes the list anew."
    )


def remove_strangers(folder: Path, names: set[str]) -> None:
    """Uninstalls what an earlier list had and this one has not: no test may pass on a package that users lack."""
    listed = subprocess.run(
        [python_of(folder), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    installed = {canonical(entry["name"]) for entry in json.loads(listed.stdout)}
    strangers = sorted(installed - names - {"pip", "learnware-serving"})
    if strangers:
        say(f"no longer needed: {', '.join(strangers)}")
        run(
            [python_of(folder), "-m", "pip", "uninstall", "--quiet", "--yes", *strangers],
            "pip could not uninstall them",
        )


def pip(folder: Path, *arguments: str, quietly: bool = False) -> None:
    """`pip install` with this project's options."""
    failure = "pip could not install (see above)"
    steps.pip_install(python_of(folder), *PIP_OPTIONS, *arguments, failure=failure, quietly=quietly)


def python_of(folder: Path) -> str:
    return str(folder / "bin" / "python")


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]).absolute())
    except StepFailure as failure:
        sys.exit(steps.line(str(failure)))
    except KeyboardInterrupt:
        sys.exit(steps.line("stopped; the next run starts this anew"))
