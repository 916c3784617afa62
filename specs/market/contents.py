"""Which files of a submission are a learnware's, by their names alone.

People have adapters in many layouts: as PEFT's `save_pretrained` writes them, in a Trainer's output with its
checkpoints, in a folder inside a zip. Only the files that something here reads are taken; the others are left out and
named, and are neither opened nor counted.
"""

import re
from collections.abc import Iterable, Mapping, Set as AbstractSet
from typing import NamedTuple

from specs.adapter import CONFIG_FILE, WEIGHTS_FILE
from specs.card import CARD_FILE
from specs.errors import InvalidLearnware
from specs.learnware import SPECIFICATION_FOLDER

PICKLED_WEIGHTS = "adapter_model.bin"
"""File name of an adapter's weights as PEFT wrote them before safetensors: a pickle, which can run code when read."""
INITIAL_FOLDER = "initial_adapter"
"""Folder of a taken learnware with the adapter that training began from, where the submission holds one. Adapters that
were initialised from the base's weights (PiSSA, OLoRA) can be converted with it."""
DOCUMENTS = ("README.md", "LICENSE", "ATTRIBUTION.md")
"""Names of the files that say where a learnware comes from and what may be done with it."""
KNOWN_FILES = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, "training.json", *DOCUMENTS)
"""Names of the files of a learnware that are taken, beside its specifications."""

_SPECIFICATION_FILE = re.compile(rf"{SPECIFICATION_FOLDER}/[a-z0-9][a-z0-9_-]*\.(json|safetensors)")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PART = re.compile(r"adapter_model-\d+-of-\d+\.(safetensors|bin)")
_WHOLE_MODEL = re.compile(r"(model|pytorch_model|consolidated)\b.*\.(safetensors|bin|pth?)|.*\.gguf")
_WEIGHTS = (WEIGHTS_FILE, PICKLED_WEIGHTS)
_SHOWN = 8
"""Adapters that a message lists."""


class Choice(NamedTuple):
    """The files that are taken, each name in the submission with the name that it gets in the learnware's folder; the
    names that are left out (a folder of which nothing is taken counts once, with a slash at its end); sentences on
    what was decided."""

    files: Mapping[str, str]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()


def choose(names: Iterable[str], *, pickled: bool = False, mark: str = "/") -> Choice:
    """Decides which of the files `names`, paths with slashes relative to the submission, are taken. With `pickled`,
    weights in a pickle are taken too where there are no others. `mark` stands between a source and a folder in it, in
    messages, where SOURCE stands for the source.

    The adapter may lie in one sub-folder, however deep. Of a Trainer's checkpoints the one with the highest step is
    taken.

    Raises:
        InvalidLearnware: there is no adapter, or there are several; or its weights are a pickle.
    """
    present = frozenset(names)
    root, notes = _find_adapter(present, mark)
    weights = _weights_of(root, present)
    if weights != WEIGHTS_FILE and not pickled:
        raise InvalidLearnware(
            f"{_join(root, weights)}: only safetensors weights are accepted (a pickle can run code when it is read); "
            "`learnware-serving learnware add SOURCE --convert-pickle` converts it, in a process of its own that loads "
            "tensors and nothing else"
        )
    files = {}
    for name in sorted(present):
        inner = _inside(name, root)
        if inner in KNOWN_FILES or inner == weights or (inner and _SPECIFICATION_FILE.fullmatch(inner)):
            files[name] = inner
    files |= _documents_above(present, root, set(files.values()))
    initial = _initial_adapter(present, root)
    if initial and ((own := _weights_of(initial, present)) == WEIGHTS_FILE or pickled):
        files |= {_join(initial, name): f"{INITIAL_FOLDER}/{name}" for name in (CONFIG_FILE, own)}
    return Choice(files, _summary(present, files), notes)


def _find_adapter(names: AbstractSet[str], mark: str) -> tuple[str, tuple[str, ...]]:
    """Returns the folder of the one adapter ("" for the top), and sentences on the choice."""
    configured = sorted(_parent(name) for name in names if _last(name) == CONFIG_FILE)
    whole = {folder for folder in configured if any(_join(folder, each) in names for each in _WEIGHTS)}
    if not whole:
        raise InvalidLearnware(_nothing_found(names, configured))
    # an adapter below another one's folder belongs to it: a checkpoint, its initial adapter, a second adapter
    tops = sorted(folder for folder in whole if whole.isdisjoint(_above(folder)))
    final = [folder for folder in tops if not _CHECKPOINT.fullmatch(_last(folder))]
    if not final and len({_parent(folder) for folder in tops}) == 1:
        step, last = max((int(_last(folder).partition("-")[2]), folder) for folder in tops)
        others = "" if len(tops) == 1 else f", the last of {len(tops)} checkpoints"
        return last, (f"{last}, at step {step}{others}, is taken: no adapter lies beside the checkpoints",)
    found = final or tops
    if len(found) > 1:
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise InvalidLearnware(
            f"it holds {len(found)} adapters, in {shown}; name one of them as the source, such as "
            f"SOURCE{mark}{found[0]}"
        )
    return found[0], (f"the adapter in {found[0]} is taken",) if found[0] else ()


def _nothing_found(names: AbstractSet[str], configured: list[str]) -> str:
    """Says why a submission has no adapter, and what would help."""
    if configured:
        beside = _join(configured[0], CONFIG_FILE)
        part = next((name for name in sorted(names) if _PART.fullmatch(_last(name))), None)
        if part is not None:
            return f"{WEIGHTS_FILE} is missing beside {beside}: {part} is one part of it; save it as one file"
        return f"{WEIGHTS_FILE} is missing beside {beside}: save the adapter with PEFT's save_pretrained"
    model = next((name for name in sorted(names) if _WHOLE_MODEL.fullmatch(_last(name))), None)
    if model is not None:
        return (
            f"{CONFIG_FILE} is missing, and {model} is a whole model: learnwares are LoRA adapters of the stack's base "
            "model; train one (`learnware-serving train`), or extract one from the difference to the base (such as "
            "mergekit's mergekit-extract-lora)"
        )
    loose = next((name for name in sorted(names) if _last(name) in _WEIGHTS), None)
    if loose is not None:
        return f"{CONFIG_FILE} is missing beside {loose}: PEFT's save_pretrained writes both"
    return (
        f"{CONFIG_FILE} is missing: an adapter's {CONFIG_FILE} and {WEIGHTS_FILE} were looked for at the top and in "
        f"every folder below, among {len(names)} files"
    )


def _initial_adapter(names: AbstractSet[str], root: str) -> str | None:
    """Returns the folder of the adapter that training began from, if one lies right below the adapter's own folder:
    the only adapter there that is no checkpoint, or the only one whose folder's name has `init` in it."""
    below = sorted(
        folder
        for name in names
        if _last(name) == CONFIG_FILE and (folder := _parent(name)) != root and _parent(folder) == root
        if any(_join(folder, each) in names for each in _WEIGHTS) and not _CHECKPOINT.fullmatch(_last(folder))
    )
    found = [folder for folder in below if "init" in _last(folder).lower()] or below
    return found[0] if len(found) == 1 else None


def _documents_above(names: AbstractSet[str], root: str, taken: AbstractSet[str]) -> dict[str, str]:
    """Returns the documents that lie above the adapter's folder and not in it, the nearest of each: PEFT writes the
    README.md of several adapters once, at the top."""
    found: dict[str, str] = {}
    for folder in reversed(_above(root)):
        for document in DOCUMENTS:
            if (name := _join(folder, document)) in names and document not in {*taken, *found.values()}:
                found[name] = document
    return found


def _summary(names: AbstractSet[str], taken: Iterable[str]) -> tuple[str, ...]:
    """Returns what is left out, the largest folders of which nothing is taken in the place of their files."""
    taken = set(taken)
    used = {folder for name in taken for folder in _above(name)}
    left: dict[str, None] = {}
    for name in sorted(names - taken):
        unused = next((folder for folder in _above(name) if folder not in used), None)
        left[name if unused is None else f"{unused}/"] = None
    return tuple(left)


def _weights_of(folder: str, names: AbstractSet[str]) -> str:
    return next(each for each in _WEIGHTS if _join(folder, each) in names)


def _above(name: str) -> list[str]:
    """Returns the folders above a file or folder, from the top ("") down."""
    parts = name.split("/") if name else []
    return ["/".join(parts[:count]) for count in range(len(parts))]


def _inside(name: str, folder: str) -> str:
    """Returns the name of a file seen from `folder`; empty if it does not lie there."""
    return name if not folder else name.removeprefix(f"{folder}/") if name.startswith(f"{folder}/") else ""


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
