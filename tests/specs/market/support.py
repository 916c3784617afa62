"""A small market and submissions for it."""

import json
import shutil
import zipfile
from pathlib import Path

import yaml
from safetensors.numpy import load_file, save_file

from specs.base_layers import read_layers
from specs.market.checks import Requirements
from tests.specs.learnware_folder import BASE

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "vocab_size": 32,
}


def requirements(folder: Path) -> Requirements:
    """Of a tiny Llama whose config.json is written into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return Requirements(BASE, "rev-1", read_layers(folder), max_rank=8, reserved=frozenset({BASE, "auto"}))


def variant(whole: Path, target: Path, learnware_id: str, version: int = 1, scale: float = 1.0) -> Path:
    """A copy of a learnware with another id, version and weights."""
    shutil.copytree(whole, target)
    edit_card(target, id=learnware_id, version=version)
    weights = target / "adapter_model.safetensors"
    save_file({name: value * scale for name, value in load_file(weights).items()}, weights)
    return target


def edit_card(folder: Path, **changes: object) -> None:
    path = folder / "learnware.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def pack(folder: Path, target: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return target
