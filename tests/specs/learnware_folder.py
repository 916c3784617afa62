"""A small but whole learnware folder, for tests that then break one thing in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from specs.card import CARD_FILE, BaseModelReference, Card, save_card
from specs.encoding.encoder import STATIC_ENCODER, load_encoder, load_prompt_encoder
from specs.learnware import SPECIFICATION_FOLDER
from specs.specification import DESCRIPTION_FILE, POINTS_FILE, RKME_TEXT, make_specification, save_specification

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
BASE = "tiny-base"
PROMPTS = [
    f"Which colour has object number {number}?\nIt stands in room {number * 7 % 11}.\nAnswer:" for number in range(30)
]


def adapter_config(**changes: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", "r": 4, "base_model_name_or_path": BASE, "target_modules": ["q_proj"]} | changes


def adapter_tensors(rank: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        f"{LAYER}.lora_A.weight": generator.normal(size=(rank, 8)).astype(np.float32),
        f"{LAYER}.lora_B.weight": generator.normal(size=(8, rank)).astype(np.float32),
    }


def card(learnware_id: str = "colours-objects", **changes: Any) -> Card:
    values: dict[str, Any] = {
        "id": learnware_id,
        "name": "Colours of objects",
        "description": "Says which colour an object has.",
        "base_model": BaseModelReference(id=BASE),
        "domain": "colours",
        "tasks": ("objects",),
        "languages": ("en",),
        "licence": "Apache-2.0",
        "author": "tests",
    }
    return Card(**(values | changes))


def write_format_1(folder: Path, prompts: Sequence[str] = PROMPTS) -> None:
    """A specification of the first format in `folder`: one view, its points vectors of whole prompts under the static
    encoder."""
    encoder = load_encoder(STATIC_ENCODER)
    points = encoder.encode(prompts)
    description = {
        "type": RKME_TEXT,
        "format": 1,
        "encoder": {"id": encoder.id, "sha256": encoder.fingerprint},
        "dim": encoder.dim,
        "gamma": 10.0,
        "views": [{"name": "whole", "rows": len(points), "points": len(points)}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description))
    weights = np.full(len(points), 1 / len(points), np.float32)
    save_file({"points": points.astype(np.float16), "weights": weights}, folder / POINTS_FILE)


def write_learnware(folder: Path, learnware_id: str = "colours-objects") -> Path:
    """A valid learnware in `folder`."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(adapter_config()))
    save_file(adapter_tensors(), folder / "adapter_model.safetensors")
    save_card(card(learnware_id), folder / CARD_FILE)
    specification = make_specification({"whole": PROMPTS}, load_prompt_encoder(), points=10)
    save_specification(specification, folder / SPECIFICATION_FOLDER)
    return folder
