"""Reads an adapter from disk into vLLM's form, each layer's B multiplied by that layer's own scaling.

vLLM 0.29's reader (`PEFTHelper`, `LoRAModel.from_local_checkpoint`) computes one scaling from `r` and `lora_alpha` for
all layers, passes over `rank_pattern` and `alpha_pattern`, compares only `r` with the slots' rank, and refuses options
that change nothing, such as `bias: lora_only` without biases. Here `specs.adapter_config` says what an adapter
computes.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path, parse_fine_tuned_lora_name

from specs.adapter import check_agrees
from specs.adapter_config import checked_config, read_config
from specs.adapter_conversion import check_copies
from specs.adapter_tensors import WEIGHTS_FILE, Header, Tensor, plain_tensor_name, read_header
from specs.errors import InvalidLearnware


def adapter_folder(request: LoRARequest) -> Path:
    """Returns the folder of the adapter that a request names."""
    return Path(get_adapter_absolute_path(request.lora_path))


def read_adapter(
    folder: Path,
    number: int,
    model: Any,
    *,
    dtype: torch.dtype,
    max_rank: int,
    vocabulary: int,
    base: Path,
) -> LoRAModel:
    """Reads the adapter in a folder; each layer's B is already multiplied by its scaling, which is 1 from then on.

    Args:
        folder: as PEFT wrote it.
        number: the adapter's number in the engine.
        model: the engine's model, which says how it renames modules.
        dtype: element type of the slots. The scaling is applied before values are rounded to it.
        max_rank: the largest rank that a slot holds.
        vocabulary: number of tokens of the base model.
        base: the base model's folder, with which copies of its weights are compared.

    Raises:
        InvalidLearnware: the adapter cannot be served right; the message says why.
    """
    config = checked_config(read_config(folder))
    header = read_header(folder)
    check_agrees(config, header)
    _check_ranks(header, max_rank)
    if header.whole:
        check_copies(folder, base)
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    mapper = None if mapper is None else mapper.get_rename_mapper()
    halves: dict[str, torch.Tensor] = {}
    with safe_open(str(folder / WEIGHTS_FILE), framework="pt") as file:
        for layer, pair in header.pairs.items():
            scaling = config.scaling_of(layer)
            halves[_name(pair.a)] = file.get_tensor(pair.a.name).to(dtype)
            halves[_name(pair.b)] = _scaled(file.get_tensor(pair.b.name), scaling, dtype)
    helper = PEFTHelper(r=config.rank, lora_alpha=config.rank, target_modules=[])  # a scaling of 1
    lora = LoRAModel.from_lora_tensors(
        number,
        halves,
        helper,
        device="cpu",
        model_vocab_size=vocabulary,
        weights_mapper=mapper,
        skip_prefixes=getattr(model, "lora_skip_prefixes", None),
    )
    for layer, pair in header.pairs.items():
        module, _ = parse_fine_tuned_lora_name(_name(pair.a), mapper)
        if module in lora.loras:
            lora.loras[module].rank = config.rank_of(layer)
    lora.rank = max(pair.rank for pair in header.pairs.values())
    return lora


def _name(tensor: Tensor) -> str:
    return plain_tensor_name(tensor.name)


def _scaled(b: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """Returns B times the scaling, rounded once."""
    return b.to(dtype) if scaling == 1 else (b.float() * scaling).to(dtype)


def _check_ranks(header: Header, max_rank: int) -> None:
    """Raises InvalidLearnware when a layer's rank is larger than a slot: vLLM would write over the slot's end."""
    layer, pair = max(header.pairs.items(), key=lambda item: item[1].rank)
    if pair.rank > max_rank:
        raise InvalidLearnware(
            f"{layer} has rank {pair.rank}; the engine's slots hold up to {max_rank} (engine.max_rank)"
        )
