"""Makes of an adapter's folder, as a trainer wrote it, one that the engine and PEFT serve alike, where that is exact.

- Copies of the base model's weights, which PEFT saves beside adapters of embeddings, are dropped where they equal the
  base's.
- PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ train an adapter of a base model from which its first weights B₀A₀ were taken.
  Where these are at hand, the change B A - B₀A₀ becomes a plain adapter of twice the rank, as PEFT's
  `path_initial_model_for_weight_conversion` makes one.
- Paths lose what torch.compile and FSDP put into them.

Everything else stays as it is, byte for byte. It needs neither PEFT nor torch.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from specs.adapter import adapter_hash
from specs.adapter_config import CONFIG_FILE, AdapterConfig, checked_config, read_config, unconverted
from specs.adapter_tensors import WEIGHTS_FILE, Header, half_of, plain_tensor_name, read_header
from specs.capability import load_capability, save_capability
from specs.errors import InvalidLearnware, InvalidSpecification
from specs.float_tensors import FloatTensor, base_weight, equal_floats, open_floats, save_floats
from specs.specification_types import FOLDER

_CHECKPOINT = re.compile(r"checkpoint[-_]\d+")
"""A folder in which a trainer keeps a state on the way: it holds an adapter, but not the one before the first step."""


class _Initial(NamedTuple):
    folder: Path
    config: AdapterConfig


def make_servable(folder: Path, base: Path | None) -> tuple[str, ...]:
    """Changes the adapter's files in `folder`, which must be a copy of our own, into what is served right. A measured
    capability that belonged to the adapter belongs to it afterwards.

    Args:
        folder: holds the adapter, and perhaps the initial one in a folder of its own.
        base: the base model's folder; None where it is not known, and then copies of its weights are left alone.

    Returns:
        Sentences on what was changed; none where nothing was.

    Raises:
        InvalidLearnware: it cannot be served; the message names the folder and says what would help.
    """
    try:
        return _made_servable(folder, base)
    except InvalidLearnware as error:
        raise InvalidLearnware(f"learnware {folder.name}: {error}") from None


def _made_servable(folder: Path, base: Path | None) -> tuple[str, ...]:
    raw = read_config(folder)
    config = checked_config(raw, convertible=True)
    header = read_header(folder)
    notes: list[str] = []
    tensors = open_floats(folder / WEIGHTS_FILE)
    if base is not None and header.whole:
        check_copies(folder, base)
        tensors = {name: tensor for name, tensor in tensors.items() if half_of(name) is not None}
        raw = raw | {"modules_to_save": None}
        notes.append(f"left out the copies of the base model's {', '.join(sorted(header.whole))}")
    initial = _initial_adapter(folder, config, header) if config.mutates_base else None
    if initial is not None:
        tensors = _difference(tensors, config, open_floats(initial.folder / WEIGHTS_FILE), initial.config)
        raw = raw | _plain_config(config)
        notes.append(
            f"converted {config.initialisation} to a plain LoRA of twice the rank, with the initial adapter in "
            f"{initial.folder.relative_to(folder)}"
            + (": what the quantisation took away is not part of it" if config.initialisation == "loftq" else "")
        )
    plain = {plain_tensor_name(name): tensor for name, tensor in tensors.items()}
    if plain.keys() != tensors.keys():
        notes.append("took out of its tensors' names what torch.compile or FSDP had put in")
    if notes:
        _write(folder, raw, plain)
    if initial is not None:
        shutil.rmtree(initial.folder)
    return tuple(notes)


def check_copies(folder: Path, base: Path) -> None:
    """Compares copies of base weights beside an adapter with the weights of the base model in `base`, in the narrower
    of the two element types.

    Raises:
        InvalidLearnware: one differs, or cannot be compared.
    """
    header = read_header(folder)
    if not header.whole:
        return
    floats = open_floats(folder / WEIGHTS_FILE)
    for path, copies in header.whole.items():
        own = base_weight(base, path)
        for copy in copies:
            if copy.name not in floats:
                raise InvalidLearnware(f"{WEIGHTS_FILE}: {copy.name} is {copy.dtype}, which cannot be compared")
            if own is None or not equal_floats(floats[copy.name], own):
                module = path.removesuffix(".weight")
                found = "the base model has no such weights" if own is None else "it differs from the base model's"
                raise InvalidLearnware(
                    f"{WEIGHTS_FILE} holds the whole weights of {module} ({copy.name}), and {found}. All learnwares "
                    f"share the base model's {module}: if it was not trained, save with save_embedding_layers=False; "
                    "if it was (modules_to_save, new tokens), train again with LoRA on it (target_modules)"
                )


def _initial_adapter(folder: Path, config: AdapterConfig, header: Header) -> _Initial:
    """Returns the adapter before its training, which lies in a folder inside the adapter's.

    Raises:
        InvalidLearnware: there is none, or it is not clear which one it is.
    """
    found = []
    for path in sorted(folder.rglob(CONFIG_FILE)):
        place = path.parent
        inside = place.relative_to(folder).parts
        if not inside or any(_CHECKPOINT.fullmatch(part) for part in inside) or not (place / WEIGHTS_FILE).is_file():
            continue
        if _same_form(read_header(place), header):
            found.append(place)
    named = [place for place in found if "init" in place.name.lower()]
    likely = named or found
    if not likely:
        raise InvalidLearnware(unconverted(config.initialisation))
    if len(likely) > 1:
        names = ", ".join(str(place.relative_to(folder)) for place in likely)
        raise InvalidLearnware(
            f"{CONFIG_FILE}: init_lora_weights is {config.initialisation!r}, and several folders could hold the "
            f"adapter before its training ({names}): keep the right one alone, as initial_adapter"
        )
    return _Initial(likely[0], checked_config(read_config(likely[0]), convertible=True))


def _same_form(one: Header, other: Header) -> bool:
    return one.pairs.keys() == other.pairs.keys() and all(
        (pair.a.shape, pair.b.shape) == (other.pairs[layer].a.shape, other.pairs[layer].b.shape)
        for layer, pair in one.pairs.items()
    )


def _difference(
    trained: Mapping[str, FloatTensor], config: AdapterConfig, first: Mapping[str, FloatTensor], initial: AdapterConfig
) -> dict[str, FloatTensor]:
    """Returns the tensors of s B A - s₀ B₀ A₀, with the scalings in B: as (s B - s₀ B₀) A + s₀ B₀ (A - A₀), in which no
    two large terms cancel, so that the engine's narrower type loses nothing that counts."""
    before = {half: tensor for name, tensor in first.items() if (half := half_of(name)) is not None}
    names = {half: name for name in trained if (half := half_of(name)) is not None}
    made: dict[str, FloatTensor] = {}
    for (layer, side), name in names.items():
        if side == "B":
            continue
        a, b = trained[name].as_float32(), trained[names[layer, "B"]].as_float32() * config.scaling_of(layer)
        a_before = before[layer, "A"].as_float32()
        b_before = before[layer, "B"].as_float32() * initial.scaling_of(layer)
        made[name] = FloatTensor.joined([a, a - a_before], axis=0)
        made[names[layer, "B"]] = FloatTensor.joined([b - b_before, b_before], axis=1)
    return made


def _plain_config(config: AdapterConfig) -> dict[str, Any]:
    """Returns the options of the converted adapter, whose scaling is 1 in every layer."""
    ranks = {key: 2 * rank for key, rank in config.rank_pattern.items()}
    return {
        "r": 2 * config.rank,
        "lora_alpha": 2 * config.rank,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "use_rslora": False,
        "init_lora_weights": True,
        "loftq_config": {},
        "corda_config": None,
        "lora_ga_config": None,
    }


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, FloatTensor]) -> None:
    """Puts a configuration and tensors in the place of the adapter's."""
    before = adapter_hash(folder)
    new = folder / f".{WEIGHTS_FILE}.new"
    save_floats(tensors, new)
    new.replace(folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    try:
        capability = load_capability(folder / FOLDER)
    except InvalidSpecification:
        return  # the learnware's check says what is wrong with it
    if capability is not None and capability.adapter_sha256 == before:
        save_capability(replace(capability, adapter_sha256=adapter_hash(folder)), folder / FOLDER)
