"""What the population's mixtures compute, on small adapters."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.market import population


def adapter(folder: Path, rank: int, alpha: float, layers: list[int], seed: int) -> Path:
    """Random weights for `q_proj`, 6 features in, 5 out."""
    torch.manual_seed(seed)
    folder.mkdir()
    tensors = {}
    for layer in layers:
        path = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{path}.lora_A.weight"] = torch.randn(rank, 6)
        tensors[f"{path}.lora_B.weight"] = torch.randn(5, rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"], "base_model_name_or_path": "b"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def changes(folder: Path) -> dict[int, torch.Tensor]:
    """The change of each layer's weight that an adapter makes."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found = {}
    for name, a in tensors.items():
        if ".lora_A." in name:
            b = tensors[name.replace(".lora_A.", ".lora_B.")]
            found[int(population.LAYER.search(name)[1])] = config["lora_alpha"] / config["r"] * b @ a
    return found


def test_a_merge_is_the_mean_of_both_changes(tmp_path: Path) -> None:
    first = adapter(tmp_path / "first", 2, 4.0, [0, 1], 1)
    second = adapter(tmp_path / "second", 3, 3.0, [1, 2], 2)
    population.merge(first, second, tmp_path / "merged")
    merged, one, other = changes(tmp_path / "merged"), changes(first), changes(second)
    assert sorted(merged) == [0, 1, 2]
    zero = torch.zeros(5, 6)
    for layer, change in merged.items():
        torch.testing.assert_close(change, (one.get(layer, zero) + other.get(layer, zero)) / 2)
    assert json.loads((tmp_path / "merged" / "adapter_config.json").read_text())["r"] == 5


def test_the_top_keeps_the_uppermost_layers_as_they_are(tmp_path: Path) -> None:
    source = adapter(tmp_path / "source", 2, 4.0, [0, 1, 2, 10], 1)
    population.keep_top(source, tmp_path / "top", layers=2)
    kept, all_changes = changes(tmp_path / "top"), changes(source)
    assert sorted(kept) == [2, 10]
    for layer, change in kept.items():
        torch.testing.assert_close(change, all_changes[layer])


def test_a_negated_adapter_takes_its_changes_away_again(tmp_path: Path) -> None:
    source = adapter(tmp_path / "source", 2, 4.0, [0, 1], 1)
    population.negate(source, tmp_path / "negated")
    negated, original = changes(tmp_path / "negated"), changes(source)
    assert sorted(negated) == [0, 1]
    for layer, change in negated.items():
        torch.testing.assert_close(change, -original[layer])


def test_recipes_name_each_learnware_by_its_domain() -> None:
    names = [*population.RECIPES, *population.MERGES, *population.TOPS, *population.NEGATED]
    assert len(names) == len(set(names))
    for name, recipe in population.RECIPES.items():
        assert all(task.split("-")[0] == name.split("-")[0] for task in recipe.tasks)


def test_missing_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(population.InvalidInput, match="finance/none"):
        population.Rows(tmp_path).of("finance-none")
