"""The tensors of an adapter's weights file: their names, shapes and values, without PEFT and without torch.

Names and shapes come from the file's header, which is bounded and compared with the file's length; values are read only
where they are asked for, a part at a time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from specs.errors import InvalidLearnware
from specs.float_tensors import open_floats
from specs.safetensors_header import read_places

WEIGHTS_FILE = "adapter_model.safetensors"
"""File name of an adapter's weights, as PEFT writes it."""
PREFIX = "base_model.model."
"""PEFT puts this before the path of every module."""

_LORA = re.compile(
    rf"^{re.escape(PREFIX)}(?P<layer>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))$"
)
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of a path that torch.compile, FSDP and activation checkpointing put in; the served model has none of them."""
_EXPONENT_MASK = {
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
    "F32": (np.uint32, 0x7F800000),
    "F64": (np.uint64, 0x7FF0000000000000),
}
"""The unsigned integer type and exponent bits of each float type. A float whose exponent bits are all set is NaN or
infinite; read so, bfloat16 needs no library that knows it."""


_CHECKED_AT_ONCE = 1 << 20
"""Numbers of a tensor that are looked at together, so that a large file needs no large memory."""


class Tensor(NamedTuple):
    """A tensor by its file's header."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Pair(NamedTuple):
    """The two halves of one layer's adapter: A of (rank, features in), B of (features out, rank)."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


class Header(NamedTuple):
    """The content of a weights file: the adapter's pairs by the path of their layer, and whole weights of base modules
    (`lm_head.weight`) by that path with `.weight`."""

    pairs: Mapping[str, Pair]
    whole: Mapping[str, Sequence[Tensor]]


def plain_path(path: str) -> str:
    """Returns a module's path without what compilers and wrappers put into it."""
    return _WRAPPERS.sub("", path)


def half_of(name: str) -> tuple[str, str] | None:
    """Returns the path of the layer and the half ("A" or "B") that a tensor's name means, or None when it is no half of
    a LoRA pair."""
    match = _LORA.match(name)
    return None if match is None else (plain_path(match["layer"]), match["linear"] or match["embedding"])


def plain_tensor_name(name: str) -> str:
    """Returns a tensor's name as PEFT gives it without compilers and wrappers."""
    half = half_of(name)
    if half is None:
        return name
    ending = f"lora_embedding_{half[1]}" if name.endswith(f"lora_embedding_{half[1]}") else f"lora_{half[1]}.weight"
    return f"{PREFIX}{half[0]}.{ending}"


def whole_weight_of(name: str) -> str | None:
    """Returns the path of the base model's weight of which a tensor is a copy (`lm_head.weight`), or None when the name
    means something else. PEFT writes such copies beside adapters of embeddings, and for `modules_to_save`."""
    if half_of(name) is not None or not name.startswith(PREFIX) or not name.endswith(".weight") or ".lora_" in name:
        return None
    return plain_path(name.removeprefix(PREFIX)).removesuffix(".weight").removesuffix(".base_layer") + ".weight"


def read_header(folder: Path) -> Header:
    """Reads the header of an adapter's weights and checks names, types and shapes.

    Raises:
        InvalidLearnware: the file is missing, cut or no safetensors file, or a tensor has no place in a LoRA adapter.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, list[Tensor]] = {}
    for tensor in _tensors(folder / WEIGHTS_FILE):
        half, path = half_of(tensor.name), whole_weight_of(tensor.name)
        if half is not None:
            _check_form(tensor)
            halves.setdefault(half[0], {})[half[1]] = tensor
        elif path is not None:
            whole.setdefault(path, []).append(tensor)
        else:
            raise InvalidLearnware(_foreign(tensor.name))
    for layer, sides in halves.items():
        if set(sides) != {"A", "B"} or sides["A"].shape[0] != sides["B"].shape[1]:
            raise InvalidLearnware(f"{WEIGHTS_FILE}: {layer} needs lora_A and lora_B of one rank")
    if not halves:
        raise InvalidLearnware(f"{WEIGHTS_FILE} holds no tensors of a LoRA adapter")
    return Header({layer: Pair(sides["A"], sides["B"]) for layer, sides in halves.items()}, whole)


def check_values(folder: Path) -> None:
    """Reads all values of an adapter's weights.

    Raises:
        InvalidLearnware: a value is NaN or infinite, or one half of every pair is 0, so that nothing would be changed.
    """
    idle: dict[str, dict[str, bool]] = {}
    for name, tensor in open_floats(folder / WEIGHTS_FILE).items():
        half = half_of(name)
        if half is None:
            continue
        kind, mask = _EXPONENT_MASK[tensor.dtype]
        values = tensor.data.reshape(-1).view(kind)
        zero = True
        for start in range(0, len(values), _CHECKED_AT_ONCE):
            part = values[start : start + _CHECKED_AT_ONCE]
            if bool(((part & kind(mask)) == mask).any()):
                raise InvalidLearnware(f"{WEIGHTS_FILE}: {name} has NaN or infinite values")
            zero = zero and not bool((part << kind(1)).any())  # the sign of -0 shifted out
        idle.setdefault(half[0], {})[half[1]] = zero
    for side in ("A", "B"):
        if all(sides.get(side, True) for sides in idle.values()):
            raise InvalidLearnware(f"{WEIGHTS_FILE}: every lora_{side} is 0, so the adapter changes nothing")
    if all(any(sides.values()) for sides in idle.values()):
        raise InvalidLearnware(f"{WEIGHTS_FILE}: lora_A or lora_B of every pair is 0, so the adapter changes nothing")


def _tensors(path: Path) -> Iterator[Tensor]:
    try:
        places = read_places(path)
        with safe_open(str(path), framework="numpy"):  # the engine's own reader: it must take the file, too
            pass
    except FileNotFoundError:
        raise InvalidLearnware(f"{WEIGHTS_FILE} is missing") from None
    except (SafetensorError, ValueError) as error:
        raise InvalidLearnware(f"{WEIGHTS_FILE} is truncated, or is no safetensors file: {error}") from None
    for name, place in places.items():
        yield Tensor(name, place.dtype, place.shape)


def _check_form(tensor: Tensor) -> None:
    if 0 in tensor.shape:
        raise InvalidLearnware(
            f"{WEIGHTS_FILE}: {tensor.name} is empty, as after saving a sharded model (DeepSpeed ZeRO-3, FSDP): gather "
            "the parameters before save_pretrained, and save again"
        )
    if len(tensor.shape) != 2 or tensor.dtype not in _EXPONENT_MASK:
        raise InvalidLearnware(
            f"{WEIGHTS_FILE}: {tensor.name} is {tensor.dtype} {tensor.shape}; "
            f"two dimensions and one of {sorted(_EXPONENT_MASK)} are needed"
        )


def _foreign(name: str) -> str:
    """Says what a tensor is that is no part of a LoRA pair, and what to do."""
    if "lora_magnitude_vector" in name:
        return f"{WEIGHTS_FILE}: {name} is a magnitude of DoRA, which the engine does not serve: use_dora must be false"
    if name.endswith(".bias"):
        return (
            f"{WEIGHTS_FILE}: {name} is a trained bias, which the engine does not add: train again with bias: none "
            "and lora_bias: false"
        )
    if ".token_adapter." in name or "trainable_tokens" in name:
        return (
            f"{WEIGHTS_FILE}: {name} holds trained tokens, rows of the base model's embedding, which all learnwares "
            "share: train again without trainable_token_indices"
        )
    return f"{WEIGHTS_FILE}: {name} is not a LoRA tensor ({PREFIX}….lora_A.weight)"
