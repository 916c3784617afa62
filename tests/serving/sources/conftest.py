import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.serving.sources.servers import Place
from tests.specs.learnware_folder import adapter_config, adapter_tensors

CLUTTER = {
    "optimizer.pt": b"o" * 999,
    "training_args.bin": b"pickle",
    "tokenizer.json": b"{}",
    ".gitattributes": b"",
    "checkpoint-10/adapter_model.safetensors": b"old",
    "checkpoint-10/adapter_config.json": b"{}",
    "checkpoint-10/optimizer.pt": b"o" * 999,
}
"""What a Trainer leaves beside an adapter."""
LEFT_OUT = (".gitattributes", "checkpoint-10/", "optimizer.pt", "tokenizer.json", "training_args.bin")


@pytest.fixture
def files() -> dict[str, bytes]:
    """The files of an adapter as PEFT writes them."""
    return {
        "adapter_config.json": json.dumps(adapter_config()).encode(),
        "adapter_model.safetensors": save({name: np.array(value) for name, value in adapter_tensors().items()}),
        "README.md": b"---\nlicense: mit\n---\n",
    }


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def paths(place: Place) -> set[str]:
    return {asked.path for asked in place.asked}
