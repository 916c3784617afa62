"""Checks of a PEFT LoRA folder that need neither PEFT nor torch and execute nothing: they read JSON and safetensors
headers.

vLLM 0.29 finds most of these faults only when the adapter is first asked for, inside the engine's step; some (a name
that matches no layer) it does not find at all and answers with the base model. So they are found when the learnware is
loaded.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from specs.errors import InvalidLearnware

CONFIG_FILE = "adapter_config.json"
"""File name of an adapter's configuration, as PEFT writes it."""
WEIGHTS_FILE = "adapter_model.safetensors"
"""File name of an adapter's weights, as PEFT writes it."""

EXECUTABLE_WEIGHTS = frozenset(
    {".bin", ".ckpt", ".dill", ".h5", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
"""Endings of weight formats that can run code when they are read, or that nothing here reads."""
MAX_RANK = 512
"""The largest LoRA rank that vLLM 0.29 takes (`MaxLoRARanks`)."""

_TENSOR_NAME = re.compile(r"^(?P<layer>base_model\.model\..+)\.lora_(?P<side>[AB])\.weight$")
_EXPONENT_MASK = {"BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00), "F32": (np.uint32, 0x7F800000)}
"""The unsigned integer type and exponent bits of each float type. A float whose exponent bits are all set is NaN or
infinite; read so, bfloat16 needs no library that knows it."""
_UNSUPPORTED = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "lora_bias": False,
    "alora_invocation_tokens": None,
    # scales of single layers: the engine scales every layer by lora_alpha / r
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""Options that vLLM 0.29 refuses or ignores, with the only value of each that is served here."""


class Adapter(NamedTuple):
    """The facts that an adapter's folder states: its rank, the base model that it was trained on, that model's
    revision, and for each layer that it changes (`model.layers.0.self_attn.q_proj`) the numbers of input and output
    features."""

    rank: int
    base_model: str
    revision: str | None
    layers: Mapping[str, tuple[int, int]]


def check_adapter(folder: Path, *, weights: bool = True, values: bool = True) -> Adapter:
    """Checks the adapter in `folder` and returns it. With `weights` False only its configuration is read, and `layers`
    is empty; with `values` False names, shapes and length of the weights are checked, by their header alone.

    Raises:
        InvalidLearnware: the configuration or a shape is wrong, the weights are truncated, hold NaN, or have another
            format.
    """
    # beside safetensors weights they are never read, and the market leaves them out (`specs.market.contents`)
    for path in [] if (folder / WEIGHTS_FILE).is_file() else sorted(folder.glob("*")):
        if path.suffix.lower() in EXECUTABLE_WEIGHTS:
            raise InvalidLearnware(
                f"{path.relative_to(folder)}: only safetensors weights are accepted (others can run code when read)"
            )
    config = _read_config(folder / CONFIG_FILE)
    layers = _check_tensors(folder / WEIGHTS_FILE, config, values) if weights else {}
    if weights:
        _check_targets(config.get("target_modules"), layers)
    revision = config.get("revision")
    named = revision if isinstance(revision, str) else None
    return Adapter(config["r"], config["base_model_name_or_path"], named, layers)


def adapts_output_layer(folder: Path) -> bool:
    """Whether the adapter in a checked folder changes `lm_head`, by the names of its tensors."""
    with safe_open(str(folder / WEIGHTS_FILE), framework="numpy") as file:
        return any("lm_head" in name.split(".") for name in file.keys())  # noqa: SIM118 (no mapping)


def adapter_hash(folder: Path) -> str:
    """SHA-256 (hexadecimal) of the adapter's configuration and weights, which names the adapter that was measured."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    """Reads the configuration and checks its fields. Raises InvalidLearnware with the field that is wrong."""
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidLearnware(f"{CONFIG_FILE} is missing") from None
    except ValueError as error:
        raise InvalidLearnware(f"{CONFIG_FILE} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidLearnware(f"{CONFIG_FILE} must be an object with peft_type LORA")
    rank = config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise InvalidLearnware(f"{CONFIG_FILE}: r is {rank!r}; it must be a whole number from 1 to {MAX_RANK}")
    alpha = config.get("lora_alpha", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
        raise InvalidLearnware(f"{CONFIG_FILE}: lora_alpha is {alpha!r}; it must be a positive number")
    if not isinstance(config.get("base_model_name_or_path"), str):
        raise InvalidLearnware(f"{CONFIG_FILE}: base_model_name_or_path must name the base model")
    for option, served in _UNSUPPORTED.items():
        if config.get(option, served) not in (served, None):
            raise InvalidLearnware(f"{CONFIG_FILE}: {option} is {config[option]!r}; only {served!r} can be served")
    return config


def _check_targets(targets: Any, layers: Mapping[str, tuple[int, int]]) -> None:
    """Checks that every name of `target_modules` ends the path of a layer that the adapter changes. Where PEFT was
    given a pattern instead of names, the tensors alone say which layers those are: a foreign regular expression is not
    run here."""
    if isinstance(targets, str) and targets:
        return
    if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
        raise InvalidLearnware(f"{CONFIG_FILE}: target_modules must list the modules that the adapter changes")
    idle = [target for target in targets if not any(f".{layer}".endswith(f".{target}") for layer in layers)]
    if idle:
        raise InvalidLearnware(
            f"{CONFIG_FILE}: no tensor belongs to {idle} of target_modules; the tensors are for {sorted(layers)[:3]}"
        )


def _check_tensors(path: Path, config: dict[str, Any], values: bool) -> dict[str, tuple[int, int]]:
    """Checks names, shapes and, with `values`, values of all tensors, and returns the changed layers with their input
    and output features."""
    try:
        # the engine's own reader: it refuses cuts, gaps and overlaps
        tensors: list[tuple[str, dict[str, Any]]] = (
            deserialize(path.read_bytes()) if values else _headers(path)  # type: ignore[no-untyped-call]
        )
    except FileNotFoundError:
        raise InvalidLearnware(f"{WEIGHTS_FILE} is missing") from None
    except SafetensorError as error:
        raise InvalidLearnware(f"{WEIGHTS_FILE} is truncated, or is no safetensors file: {error}") from None
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    idle = {"A": True, "B": True}
    for name, tensor in tensors:
        dtype, shape = tensor["dtype"], tuple(tensor["shape"])
        match = _TENSOR_NAME.match(name)
        if match is None:
            raise InvalidLearnware(f"{WEIGHTS_FILE}: {name} is not a LoRA tensor (base_model.model.….lora_A.weight)")
        if len(shape) != 2 or dtype not in _EXPONENT_MASK:
            raise InvalidLearnware(
                f"{WEIGHTS_FILE}: {name} is {dtype} {shape}; "
                f"two dimensions and one of {sorted(_EXPONENT_MASK)} are needed"
            )
        side = match["side"]
        rank = shape[0] if side == "A" else shape[1]
        if rank != config["r"]:
            raise InvalidLearnware(
                f"{WEIGHTS_FILE}: {name} has shape {shape}, but {CONFIG_FILE} says r = {config['r']}"
            )
        kind, mask = _EXPONENT_MASK[dtype]
        bits = np.frombuffer(tensor.get("data", b""), kind)
        if bool(((bits & kind(mask)) == mask).any()):
            raise InvalidLearnware(f"{WEIGHTS_FILE}: {name} has NaN or infinite values")
        idle[side] = idle[side] and not bool((bits << kind(1)).any())  # the sign of -0 shifted out
        pairs.setdefault(match["layer"].removeprefix("base_model.model."), {})[side] = shape
    for layer, sides in pairs.items():
        if set(sides) != {"A", "B"} or sides["A"][0] != sides["B"][1]:
            raise InvalidLearnware(f"{WEIGHTS_FILE}: {layer} needs lora_A and lora_B of one rank")
    if not pairs:
        raise InvalidLearnware(f"{WEIGHTS_FILE} holds no tensors")
    for side, empty in idle.items():
        if empty and values:
            raise InvalidLearnware(f"{WEIGHTS_FILE}: every lora_{side} is 0, so the adapter changes nothing")
    return {layer: (sides["A"][1], sides["B"][0]) for layer, sides in pairs.items()}


def _headers(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns type and shape of each tensor; the file's length is checked, no value is read."""
    if not path.is_file():
        raise FileNotFoundError
    with safe_open(str(path), framework="numpy") as file:
        slices = ((name, file.get_slice(name)) for name in file.keys())  # noqa: SIM118 (no mapping)
        return [(name, {"dtype": one.get_dtype(), "shape": one.get_shape()}) for name, one in slices]
