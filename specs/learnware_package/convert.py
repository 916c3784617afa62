"""Converts learnwares of the `learnware` package 0.4.0.post1: its zip to a learnware's folder and back.

The package's zip of a text model (`learnware/learnware/__init__.py`, `client/learnware_client.py` there):

    learnware.yaml                   name, model (class, module, folder of weights, ids of learnwares that it needs),
                                     stat_specifications (class and file of each), semantic_specification (file)
    __init__.py                      the model's class, which the package imports
    weights/                         here: the PEFT adapter
    stat.json                        RKMETextSpecification: z (k, d), beta (k,), gamma, num_points, language
    semantic_specification.json      data, task, model and library type, scenarios, licence, name, description

An export has these, and beside them in `learnware-serving/` the card and the specifications as they are here, so that
importing it again loses nothing. An import executes nothing: Python code in the zip is never read.

The embedding does not carry over. The package's RKMETextSpecification lies in the space of a multilingual
MiniLM (384 numbers), ours in that of `specs.encoding.encoder`; distances between the two mean nothing, and the package
raises an error on them. An exported one names its encoder (a key that the package passes over), and compares with other
exports. One that the package made is kept through import and export, byte by byte; to be chosen for requests here, its
learnware needs rows, from which a specification of ours is made.
"""

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from pydantic import ValidationError

from specs.adapter import CONFIG_FILE, WEIGHTS_FILE
from specs.card import CARD_FILE, ID_LENGTH, BaseModelReference, Card, Semantics, id_fault, load_card, save_card
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidInput, InvalidLearnware
from specs.learnware import SPECIFICATION_FOLDER, Learnware, load_learnware
from specs.learnware_package.model import MODEL_CODE, MODEL_FILE, REQUIREMENTS
from specs.learnware_package.rkme_text import (
    RKME_TEXT_CLASS,
    as_rkme_text,
    as_specification,
    dump_rkme_text,
    load_rkme_text,
)
from specs.specification import DESCRIPTION_FILE, make_specification, save_specification

STAT_FILE = "stat.json"
"""File name of an exported text specification."""
SEMANTIC_FILE = "semantic_specification.json"
"""File name of a semantic specification in the package's zip."""
WEIGHTS_FOLDER = "weights"
"""Folder of the PEFT adapter in an export."""
OWN_FOLDER = "learnware-serving"
"""Folder of an export with the card and the specifications as this project writes them."""
KEPT_STAT_FILE = "learnware-package-rkme-text.json"
"""File name, in a learnware's folder of specifications, of a specification that the package made."""
OTHER_FILES = ("training.json", "README.md", "LICENSE", "ATTRIBUTION.md")
"""Names of further files that both conversions keep."""

MAX_TEXT_BYTES = 1 << 20
"""The largest JSON or YAML file of a zip that is read, in bytes."""
MAX_STAT_BYTES = 64 << 20
"""The largest specification of a zip that is read, in bytes: the package's largest, 2,000 points of 384 numbers in
JSON, has about 16 MB."""
MAX_WEIGHTS_BYTES = 1 << 30
"""The largest weights of a zip that are read, in bytes."""
MAX_FILES = 8
"""The most files that are taken from a zip's own folder of specifications; there are four kinds."""
SCENARIOS = {"finance": "Financial", "healthcare": "Health", "mathematics": "Education"}
"""Our domains in the package's fixed list of scenarios; others are `Others`."""
LICENCES = frozenset(
    [
        "MIT",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "GPL-2.0",
        "GPL-3.0",
        "LGPL-2.1",
        "LGPL-3.0",
        "AGPL-3.0",
        "ECL-2.0",
        "AFL-3.0",
        "CC-BY-4.0",
        "CC-BY-SA-4.0",
    ]
)
"""The licences that the package knows; others are `Others`."""

_SPECIFICATION_FILE = re.compile(r"[a-z0-9][a-z0-9_-]*\.(json|safetensors)")
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError)
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
"""Time of every entry of an export, fixed so that equal learnwares make equal zips."""


def export_learnware(folder: Path, target: Path, base: str | None = None, needs: Sequence[str] = ()) -> Card:
    """Writes a learnware's folder as a zip of the package, and returns its card.

    `base` is where the exported model finds its base model: a hub id or a folder (default: the card's id of it).
    `needs` are the ids of the package's learnwares that hold the base model. With them the zip's model type is `PEFT
    Model`, for which the package wants some; without them it is `Others`.

    Raises:
        InvalidLearnware: the folder is no valid learnware.
        InvalidInput: `target` cannot be written.
    """
    learnware = load_learnware(folder)
    card = load_card(folder / CARD_FILE)
    files = {
        CARD_FILE: _yaml(_package_card(card, base or card.base_model.id, needs)),
        SEMANTIC_FILE: json.dumps(semantic_specification(card, needs), indent=1, ensure_ascii=False).encode(),
        MODEL_FILE: MODEL_CODE.encode(),
        "requirements.txt": REQUIREMENTS.encode(),
        STAT_FILE: _stat(folder, learnware),
        f"{OWN_FOLDER}/{CARD_FILE}": (folder / CARD_FILE).read_bytes(),
    }
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        files[f"{WEIGHTS_FOLDER}/{name}"] = (folder / name).read_bytes()
    for path in sorted((folder / SPECIFICATION_FOLDER).iterdir()):
        if _SPECIFICATION_FILE.fullmatch(path.name):
            files[f"{OWN_FOLDER}/{SPECIFICATION_FOLDER}/{path.name}"] = path.read_bytes()
    for name in OTHER_FILES:
        if (folder / name).is_file():
            files[f"{OWN_FOLDER}/{name}"] = (folder / name).read_bytes()
    try:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, _FIXED_TIME)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, content)
    except OSError as error:
        raise InvalidInput(f"{target} cannot be written: {error.strerror}") from None
    return card


def import_learnware(
    source: Path, folder: Path, card: Card | None = None, rows: Sequence[str] = (), learnware_id: str | None = None
) -> Learnware:
    """Writes a zip of the package as a learnware's folder, which must be empty or new, and checks it.

    `card` replaces what the zip says about the learnware; `rows` are texts of its task, from which its specification is
    made; `learnware_id` is its id here (default: made from its name). An export of ours needs none of them.

    Raises:
        InvalidLearnware: something in the zip is wrong, or something must be given besides; the message says what.
        InvalidInput: `folder` is not empty, `source` cannot be read, or `learnware_id` is none.
    """
    if learnware_id is not None and (fault := id_fault(learnware_id)):
        raise InvalidInput(fault)
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput(f"{folder} is not empty")
    try:
        with zipfile.ZipFile(source) as archive:
            files = _Files(archive)
            return _import(files, folder, card, rows, learnware_id)
    except OSError as error:
        raise InvalidInput(f"{source} cannot be read: {error.strerror or error}") from None
    except _DAMAGE as error:
        raise InvalidLearnware(f"{source.name} is not a whole zip file: {error}") from None


class _Files:
    """The entries of a zip, read by name and up to a limit. Nothing is ever written under a name of the zip's."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._names = set(archive.namelist())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def names_in(self, folder: str) -> list[str]:
        """Returns the names of the first `MAX_FILES` files right in a folder, in order."""
        names = (name.removeprefix(f"{folder}/") for name in self._names if name.startswith(f"{folder}/"))
        return sorted(name for name in names if name and "/" not in name)[:MAX_FILES]

    def read(self, name: str, limit: int) -> bytes:
        """Returns an entry's content. Raises InvalidLearnware when it is missing or larger than `limit` bytes."""
        if name not in self._names:
            raise InvalidLearnware(f"{name} is missing in the zip")
        with self._archive.open(name) as content:
            taken = content.read(limit + 1)
        if len(taken) > limit:
            raise InvalidLearnware(f"{name} is larger than {limit >> 20} MiB")
        return taken

    def mapping(self, name: str) -> dict[str, Any]:
        """Returns the content of a YAML or JSON file that must hold keys and values. Raises InvalidLearnware where it
        does not."""
        try:
            values = yaml.safe_load(io.BytesIO(self.read(name, MAX_TEXT_BYTES)))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidLearnware(f"{name} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise InvalidLearnware(f"{name} must hold keys and values")
        return values


def _import(files: _Files, folder: Path, card: Card | None, rows: Sequence[str], learnware_id: str | None) -> Learnware:
    said = files.mapping(CARD_FILE)
    weights = _weights_folder(said)
    config = files.read(f"{weights}/{CONFIG_FILE}", MAX_TEXT_BYTES)
    stat = _stat_of(files, said)
    own = f"{OWN_FOLDER}/{SPECIFICATION_FOLDER}"
    if not rows and f"{own}/{DESCRIPTION_FILE}" not in files and (stat is None or load_rkme_text(stat).encoder is None):
        raise InvalidLearnware(
            "its specification is not in the space of this project's encoder, so nothing could be chosen by it here: "
            "give some rows of its task (--rows), from which a specification is made"
        )
    tensors = files.read(f"{weights}/{WEIGHTS_FILE}", MAX_WEIGHTS_BYTES)
    (folder / SPECIFICATION_FOLDER).mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_bytes(config)
    (folder / WEIGHTS_FILE).write_bytes(tensors)
    for name in OTHER_FILES:
        if f"{OWN_FOLDER}/{name}" in files:
            (folder / name).write_bytes(files.read(f"{OWN_FOLDER}/{name}", MAX_TEXT_BYTES))
    for name in files.names_in(own):
        if _SPECIFICATION_FILE.fullmatch(name):
            (folder / SPECIFICATION_FOLDER / name).write_bytes(files.read(f"{own}/{name}", MAX_STAT_BYTES))
    if card is None and f"{OWN_FOLDER}/{CARD_FILE}" in files:
        (folder / CARD_FILE).write_bytes(files.read(f"{OWN_FOLDER}/{CARD_FILE}", MAX_TEXT_BYTES))
        card = load_card(folder / CARD_FILE)
    card = card or _own_card(said, _semantics_of(files, said), config, stat)
    if learnware_id is not None:
        card = card.model_copy(update={"id": learnware_id})
    save_card(card, folder / CARD_FILE)
    if rows:
        texts = {"whole": rows, "examples": card.examples}
        save_specification(make_specification(texts, load_prompt_encoder()), folder / SPECIFICATION_FOLDER)
    elif stat is not None and f"{own}/{DESCRIPTION_FILE}" not in files:
        save_specification(as_specification(load_rkme_text(stat)), folder / SPECIFICATION_FOLDER)
    if stat is not None and load_rkme_text(stat).encoder is None:
        (folder / SPECIFICATION_FOLDER / KEPT_STAT_FILE).write_bytes(stat)
    return load_learnware(folder)


def semantic_specification(card: Card, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the card in the package's fixed vocabulary."""
    licence = card.licence if card.licence in LICENCES else "Others"
    return {
        "Data": {"Type": "Class", "Values": ["Text"]},
        "Task": {"Type": "Class", "Values": ["Text Generation"]},
        "Model": {"Type": "Optional", "Values": ["PEFT Model" if needs else "Others"]},
        "Library": {"Type": "Class", "Values": ["PyTorch"]},
        "Scenario": {"Type": "Tag", "Values": [SCENARIOS.get(card.domain, "Others")]},
        "License": {"Type": "Class", "Values": [licence]},
        "Name": {"Type": "String", "Values": card.name},
        "Description": {"Type": "String", "Values": card.description},
    }


def _package_card(card: Card, base: str, needs: Sequence[str]) -> dict[str, Any]:
    return {
        "id": card.id,
        "name": card.name,
        "model": {
            "class_name": "Model",
            "module_path": MODEL_FILE,
            "weights_file_path": WEIGHTS_FOLDER,
            "required_learnware_ids": list(needs),
            "kwargs": {"base_model": base, "base_revision": card.base_model.revision},
        },
        "stat_specifications": [
            {
                "module_path": "learnware.specification",
                "class_name": RKME_TEXT_CLASS,
                "file_name": STAT_FILE,
                "kwargs": {},
            }
        ],
        "semantic_specification": {"file_name": SEMANTIC_FILE},
    }


def _stat(folder: Path, learnware: Learnware) -> bytes:
    kept = folder / SPECIFICATION_FOLDER / KEPT_STAT_FILE
    if kept.is_file():
        return kept.read_bytes()
    return dump_rkme_text(as_rkme_text(learnware.specified, learnware.languages))


def _yaml(values: Mapping[str, Any]) -> bytes:
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text.encode()


def _weights_folder(said: Mapping[str, Any]) -> str:
    model = said.get("model") or {}
    named = model.get("weights_file_path", WEIGHTS_FOLDER) if isinstance(model, dict) else None
    if not isinstance(named, str):
        raise InvalidLearnware(f"{CARD_FILE}: model.weights_file_path must be the name of a folder in the zip")
    return str(PurePosixPath(named))


def _stat_of(files: _Files, said: Mapping[str, Any]) -> bytes | None:
    """Returns the RKME text specification that the zip names, or None."""
    listed = said.get("stat_specifications") or []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and entry.get("class_name") == RKME_TEXT_CLASS:
            content = files.read(str(entry.get("file_name")), MAX_STAT_BYTES)
            load_rkme_text(content)
            return content
    return None


def _semantics_of(files: _Files, said: Mapping[str, Any]) -> dict[str, Any]:
    named = said.get("semantic_specification")
    name = named.get("file_name") if isinstance(named, dict) else SEMANTIC_FILE
    return files.mapping(str(name)) if str(name) in files else {}


def _own_card(said: Mapping[str, Any], semantics: Mapping[str, Any], config: bytes, stat: bytes | None) -> Card:
    """Makes a card from what the zip says; fields that it leaves out are said to be unknown."""

    def values(key: str) -> list[str]:
        found = semantics.get(key)
        found = found.get("Values") if isinstance(found, dict) else None
        return [found] if isinstance(found, str) else [str(value) for value in found or []]

    name = " ".join(values("Name")) or str(said.get("name") or said.get("id") or "imported learnware")
    scenarios = tuple(values("Scenario"))
    domains = {theirs: ours for ours, theirs in SCENARIOS.items()}
    domain = next((domains[each] for each in scenarios if each in domains), "general")
    named = str(said.get("id") or name)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", named).strip("-._")[:ID_LENGTH] or "imported"
    try:
        base = json.loads(config)["base_model_name_or_path"]
        return Card(
            id=slug if id_fault(named) else named,
            name=name,
            description=" ".join(values("Description")) or name,
            base_model=BaseModelReference(id=base),
            domain=domain,
            tasks=(slug.lower(),),
            languages=(load_rkme_text(stat).languages if stat is not None else ()) or ("und",),
            licence=next(iter(values("License")), "unknown"),
            author="unknown",
            source="imported from the learnware package",
            semantics=Semantics(
                data_type=next(iter(values("Data")), "Text"),
                task_type=next(iter(values("Task")), "Text Generation"),
                library_type=next(iter(values("Library")), "PyTorch"),
                scenarios=scenarios,
            ),
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise InvalidLearnware(f"no card can be made from the zip ({error}); give one (--card)") from None
