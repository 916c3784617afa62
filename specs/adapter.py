"""Checks of a PEFT LoRA folder that need neither PEFT nor torch and execute nothing: they read JSON and safetensors
headers.

vLLM 0.29 finds most of these faults only when the adapter is first asked for, inside the engine's step; some (a name
that matches no layer, a scale of a single layer) it does not find at all and answers with other weights. So they are
found when the learnware is loaded.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from specs.adapter_config import CONFIG_FILE, EMBEDDINGS, MAX_RANK, AdapterConfig, checked_config, read_config
from specs.adapter_tensors import WEIGHTS_FILE, Header, check_values, half_of, read_header
from specs.errors import InvalidLearnware

__all__ = [
    "CONFIG_FILE",
    "EXECUTABLE_WEIGHTS",
    "MAX_RANK",
    "WEIGHTS_FILE",
    "Adapter",
    "adapter_hash",
    "adapts_output_layer",
    "check_adapter",
]

EXECUTABLE_WEIGHTS = frozenset(
    {".bin", ".ckpt", ".dill", ".h5", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
"""Endings of weight formats that can run code when they are read, or that nothing here reads."""
_DEPTH = re.compile(r"\.layers\.(\d+)\.")
_SHOWN = 3
_HASHED_AT_ONCE = 1 << 20
"""Bytes that are read at a time."""


class Adapter(NamedTuple):
    """The facts that an adapter's folder states."""

    rank: int
    """The largest rank of any layer: what a slot of the engine must hold."""
    base_model: str
    """Name or path of the base model that it was trained on; empty where its configuration names none."""
    revision: str | None
    """Revision of that model."""
    layers: Mapping[str, tuple[int, int]]
    """The numbers of input and output features of each layer that it changes (`model.layers.0.self_attn.q_proj`); empty
    when only the configuration was read."""
    notes: tuple[str, ...] = ()
    """Sentences worth telling its provider."""
    depth: int | None = None
    """The number of decoder layers that its base model must have had, given that PEFT adapted all of them; None where
    that does not follow."""
    base_copies: tuple[str, ...] = ()
    """Weights of the base model of which the file holds copies (`lm_head.weight`); they must equal the base's, which is
    not checked here (`specs.adapter_conversion.check_copies`)."""


def check_adapter(folder: Path, *, weights: bool = True, values: bool = True) -> Adapter:
    """Checks the adapter in `folder` and returns it. With `values` False only the header of its weights is read: names,
    shapes, types and the file's length are checked, and its values are not. With `weights` False `layers` is empty, and
    the weights are not looked at but for the ranks of layers that have ranks of their own.

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
    config = checked_config(read_config(folder))
    if not weights:
        rank = config.rank
        if config.rank_pattern:
            rank = max(pair.rank for pair in read_header(folder).pairs.values())
        return Adapter(rank, config.base_model, config.revision, {}, config.notes)
    header = read_header(folder)
    check_agrees(config, header)
    if values:
        check_values(folder)
    return Adapter(
        rank=max(pair.rank for pair in header.pairs.values()),
        base_model=config.base_model,
        revision=config.revision,
        layers={layer: (pair.a.shape[1], pair.b.shape[0]) for layer, pair in header.pairs.items()},
        notes=(*config.notes, *_surplus(config, header), *_copies(header)),
        depth=_depth(header.pairs) if config.covers_every_layer else None,
        base_copies=tuple(sorted(header.whole)),
    )


def check_agrees(config: AdapterConfig, header: Header) -> None:
    """Checks that the weights are those that the configuration speaks of.

    Raises:
        InvalidLearnware: a layer has another rank, or PEFT would not adapt it, or whole modules were trained.
    """
    for layer, pair in header.pairs.items():
        rank = config.rank_of(layer)
        if pair.rank != rank:
            raise InvalidLearnware(
                f"{WEIGHTS_FILE}: {pair.a.name} has shape {pair.a.shape}, but {CONFIG_FILE} says r = {rank}"
                + (" for it (rank_pattern)" if config.rank_pattern else "")
            )
    trained = sorted(path for path in header.whole if not _is_embedding(path))
    if trained:
        raise InvalidLearnware(
            f"{WEIGHTS_FILE} holds {trained[0]}, a module that was trained as a whole (modules_to_save); all "
            "learnwares share the base model's modules: train again with modules_to_save: null, or with LoRA on that "
            "module"
        )
    strange = sorted(layer for layer in header.pairs if not config.adapts(layer))
    if strange:
        raise InvalidLearnware(
            f"{WEIGHTS_FILE} has tensors for {', '.join(strange[:_SHOWN])}, but target_modules and exclude_modules of "
            f"{CONFIG_FILE} leave {'it' if len(strange) == 1 else 'them'} out: PEFT would pass over "
            f"{'it' if len(strange) == 1 else 'them'}, and the engine would not"
        )


def adapts_output_layer(folder: Path) -> bool:
    """Whether the adapter in a checked folder changes `lm_head`, by the names of its tensors."""
    with safe_open(str(folder / WEIGHTS_FILE), framework="numpy") as file:
        halves = filter(None, map(half_of, file.keys()))
        return any("lm_head" in layer.split(".") for layer, _ in halves)


def adapter_hash(folder: Path) -> str:
    """SHA-256 (hexadecimal) of the adapter's configuration and weights, which names the adapter that was measured."""
    digest = hashlib.sha256()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        with (folder / name).open("rb") as file:
            while chunk := file.read(_HASHED_AT_ONCE):
                digest.update(chunk)
    return digest.hexdigest()


def _surplus(config: AdapterConfig, header: Header) -> tuple[str, ...]:
    """Returns a note on names of `target_modules` of which there are no tensors: PEFT passes over names that match
    nothing, as when one list serves several kinds of models."""
    if config.targets is None:
        return ()
    paths = [f".{layer}" for layer in header.pairs]
    idle = sorted(
        name for name in config.targets - config.excluded if not any(path.endswith(f".{name}") for path in paths)
    )
    return (f"no tensor belongs to {', '.join(idle)} of target_modules",) if idle else ()


def _copies(header: Header) -> tuple[str, ...]:
    if not header.whole:
        return ()
    return (f"{WEIGHTS_FILE} holds {', '.join(sorted(header.whole))}, which must equal the base model's",)


def _is_embedding(path: str) -> bool:
    return path.removesuffix(".weight").rpartition(".")[2] in EMBEDDINGS


def _depth(layers: Iterable[str]) -> int | None:
    numbers = {int(match[1]) for layer in layers if (match := _DEPTH.search(f".{layer}"))}
    return len(numbers) if numbers and numbers == set(range(len(numbers))) else None
