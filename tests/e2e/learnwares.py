"""Learnwares to submit: copies of starter learnwares under other ids."""

import json
import shutil
import zipfile
from pathlib import Path

import yaml

from serving.paths import STARTER_FOLDER

WEIGHTS = "adapter_model.safetensors"
TINY = 0x3000
"""4.7e-10 as bfloat16."""


def copy_of(starter: str, target: Path, learnware_id: str, version: int = 1, weights_of: str | None = None) -> Path:
    """A starter learnware's folder under another id, with its own weights or another one's."""
    shutil.copytree(STARTER_FOLDER / starter, target)
    for name in ("adapter_config.json", WEIGHTS):
        shutil.copy(STARTER_FOLDER / (weights_of or starter) / name, target / name)
    if weights_of is not None:  # what was measured belongs to the weights
        (target / "specification" / "capability.json").unlink(missing_ok=True)
    card = target / "learnware.yaml"
    card.write_text(yaml.safe_dump(yaml.safe_load(card.read_text()) | {"id": learnware_id, "version": version}))
    return target


def without_effect(folder: Path) -> Path:
    """Makes every lora_B 0 but for one tiny number: valid, and of no use."""
    (folder / "specification" / "capability.json").unlink(missing_ok=True)
    path = folder / WEIGHTS
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    for name, tensor in header.items():
        if "lora_B" in name:
            assert tensor["dtype"] == "BF16"
            begin, end = (start + offset for offset in tensor["data_offsets"])
            raw[begin:end] = bytes(end - begin)
            raw[begin : begin + 2] = TINY.to_bytes(2, "little")
    path.write_bytes(raw)
    return folder


def zipped(folder: Path) -> bytes:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path.read_bytes()
