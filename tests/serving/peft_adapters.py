"""Adapters as PEFT itself writes them, with random values in the place of training, and what PEFT answers with them."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
INITIAL = "pissa_init"


@dataclass(frozen=True)
class Kind:
    """One way to make an adapter: options of `LoraConfig`, and what is done to the saved folder afterwards."""

    options: dict[str, Any] = field(default_factory=dict)
    initial: bool = False
    """Saves the adapter before its training in the folder INITIAL inside the adapter's."""
    converted: bool = False
    """Lets PEFT itself convert it, with the initial adapter."""
    after: Callable[[Path], object] = lambda _: None
    strength: float = 0.1
    """Size of the change that random values make to a layer's output."""
    dtype: torch.dtype = torch.float32
    """Element type of the saved tensors."""


Result = TypeVar("Result")
Prompts = Sequence[Sequence[int]]


def load_base(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def make_adapter(base: Path, folder: Path, kind: Kind, read: Callable[[Any], Result]) -> Result:
    """Makes an adapter of this kind in `folder`, and returns what `read` finds out about PEFT's model of it."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"r": 8, "lora_alpha": 16, "target_modules": ATTENTION + MLP, "task_type": "CAUSAL_LM"} | kind.options
        torch.manual_seed(0)
        model = get_peft_model(load_base(base), LoraConfig(**options))
        if kind.initial or kind.converted:
            config = model.peft_config["default"]
            own, config.init_lora_weights = config.init_lora_weights, True
            model.save_pretrained(folder / INITIAL)
            config.init_lora_weights = own
        _train(model, kind)
        found = read(model.eval())
        if kind.converted:
            model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(folder / INITIAL))
            for path in (folder / INITIAL).iterdir():
                path.unlink()
            (folder / INITIAL).rmdir()
        else:
            model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    if kind.dtype != torch.float32:
        save_file({name: value.to(kind.dtype) for name, value in load_file(weights).items()}, weights)
    kind.after(folder)
    return found


def _train(model: Any, kind: Kind) -> None:
    """Moves every trained value at random: B of a plain adapter by as much as makes the layer's output differ, the
    halves of an adapter that is part of the base's weights by a share of themselves."""
    random = torch.Generator().manual_seed(7)
    for module in model.modules():
        for halves in (getattr(module, "lora_B", {}), getattr(module, "lora_embedding_A", {})):
            for name, half in halves.items():
                weight = half.weight if hasattr(half, "weight") else half
                noise = torch.randn(weight.shape, generator=random)
                rank = module.r[name]
                size = 0.05 * float(weight.std()) or kind.strength / (module.scaling[name] * rank**0.5)
                weight.data = (weight.data + size * noise).to(kind.dtype).float()
        for half in getattr(module, "lora_A", {}).values():
            weight = half.weight
            size = 0.05 * float(weight.std()) or kind.strength
            weight.data += size * torch.randn(weight.shape, generator=random)
            weight.data = weight.data.to(kind.dtype).float()
        for half in getattr(module, "lora_embedding_B", {}).values():
            half.data = half.data.to(kind.dtype).float()


@torch.no_grad()
def logprobs(model: Any, prompts: Prompts) -> list[torch.Tensor]:
    """What a model expects after each prompt: log-probabilities of shape (vocabulary,)."""
    return [model(torch.tensor([list(ids)])).logits[0, -1].float().log_softmax(-1) for ids in prompts]


def edit_config(**changes: Any) -> Callable[[Path], object]:
    """Changes options of the saved configuration."""

    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], object]:
    """Changes the saved tensors."""

    def edit(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file({name: value.contiguous() for name, value in change(load_file(path)).items()}, path)

    return edit


def compiled_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that an adapter of a compiled model has."""
    return {name.replace("base_model.model.", "base_model.model._orig_mod."): value for name, value in tensors.items()}
