"""Reading an adapter into vLLM's form: each layer's own rank and scaling, and what no slot can hold."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from serving.engine.adapter_reader import read_adapter

from specs.errors import InvalidLearnware

pytestmark = pytest.mark.vllm

RANKS = {"self_attn.q_proj": 8, "self_attn.k_proj": 2, "mlp.up_proj": 4}
PREFIX = "base_model.model.model.layers.0"


def write(folder: Path, more: dict[str, torch.Tensor] | None = None, **options: Any) -> Path:
    tensors = {}
    for name, rank in RANKS.items():
        tensors[f"{PREFIX}.{name}.lora_A.weight"] = torch.ones(rank, 6)
        tensors[f"{PREFIX}.{name}.lora_B.weight"] = torch.full((10, rank), 1 / 3)
    save_file(tensors | (more or {}), folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "k_proj", "up_proj", "lm_head"],
        "rank_pattern": {"q_proj": 8, "k_proj": 2},
        "alpha_pattern": {"k_proj": 3},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | options))
    return folder


def read(folder: Path, base: Path = Path("/nowhere"), max_rank: int = 8, dtype: torch.dtype = torch.float32) -> Any:
    return read_adapter(folder, 3, SimpleNamespace(), dtype=dtype, max_rank=max_rank, vocabulary=32, base=base)


@pytest.mark.parametrize(
    ("stable", "scalings"), [(False, (2.0, 1.5, 4.0)), (True, (16 / 8**0.5, 3 / 2**0.5, 8.0))], ids=["plain", "rsLoRA"]
)
def test_each_layer_has_its_own_scaling_in_b(tmp_path: Path, stable: bool, scalings: tuple[float, ...]) -> None:
    lora = read(write(tmp_path, use_rslora=stable))
    assert (lora.id, lora.rank) == (3, 8)
    for (name, rank), scaling in zip(RANKS.items(), scalings, strict=True):
        weights = lora.loras[f"model.layers.0.{name}"]
        assert (weights.rank, weights.scaling, tuple(weights.lora_a.shape)) == (rank, 1, (rank, 6))
        assert weights.lora_b == pytest.approx(torch.full((10, rank), scaling / 3))


def test_the_scaled_values_are_rounded_once(tmp_path: Path) -> None:
    lora = read(write(tmp_path, alpha_pattern={"k_proj": 0.7}), dtype=torch.bfloat16)
    assert lora.loras["model.layers.0.self_attn.k_proj"].lora_b[0, 0] == torch.tensor(0.35 / 3).bfloat16()


def test_the_largest_rank_of_any_layer_must_fit_a_slot(tmp_path: Path) -> None:
    with pytest.raises(InvalidLearnware, match=r"self_attn\.q_proj has rank 8; the engine's slots hold up to 4"):
        read(write(tmp_path), max_rank=4)


def test_an_adapter_is_checked_again_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidLearnware, match="does not serve DoRA"):
        read(write(tmp_path, use_dora=True))
    with pytest.raises(InvalidLearnware, match="says r = 2"):
        read(write(tmp_path, rank_pattern={".*_proj": 2}))


@pytest.mark.parametrize("equal", [True, False])
def test_a_copy_of_the_bases_weights_is_passed_over_only_if_it_is_one(tmp_path: Path, equal: bool) -> None:
    head = torch.randn(32, 6)
    save_file({"lm_head.weight": head if equal else head + 1}, tmp_path / "model.safetensors")
    (tmp_path / "adapter").mkdir()
    folder = write(tmp_path / "adapter", {"base_model.model.lm_head.base_layer.weight": head})
    if equal:
        assert len(read(folder, tmp_path).loras) == 3
    else:
        with pytest.raises(InvalidLearnware, match="it differs from the base model's"):
            read(folder, tmp_path)


def test_a_compiled_models_names_are_plain(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {f"base_model.model._orig_mod.m.q_proj.lora_{half}.weight": torch.ones(8, 8) for half in "AB"}
    save_file(tensors, path)
    assert list(read(tmp_path).loras) == ["m.q_proj"]
