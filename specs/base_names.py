"""Names of base models: which of them mean the same model.

A trainer writes into an adapter's configuration where it found its base: a hub id, another owner's quantised copy of
it, a folder, a hub cache. So names are compared without owner, place, case and quantisation. They remain words: where
the layers of the base are known, it is their number and sizes that decide (`check_base`).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from specs.base_layers import Layers, check_fits, depth_of
from specs.errors import InvalidLearnware

_CACHED = re.compile(r"models--(?P<id>[^/]+)")
"""The folder of a model in a cache of huggingface_hub: `models--<owner>--<name>`."""
_QUANTISATION = re.compile(
    r"[-_.](?:unsloth|bnb|gptq|awq|gguf|exl[23]|mlx|marlin|hqq|eetq|aqlm|torchao|quantized|quantised|dynamic|"
    r"[23468]bits?|\d(?:\.\d+)?bpw|int[48]|nf4|fp[48]|mxfp4|nvfp4|fp16|fp32|bf16|w[48]a(?:8|16)|g(?:32|64|128)|"
    r"i?q[2-8](?:_(?:[01kmls]|xs|xxs))*)$"
)
"""A part at the end of a name that says in which number format the weights are kept."""


@dataclass(frozen=True)
class BaseModel:
    """The base model that is served: its id, other names that mean it, and its layers where they are known."""

    id: str
    aliases: tuple[str, ...] = ()
    layers: Layers | None = None

    def is_called(self, name: str) -> bool:
        """Whether a name means this model, as far as words can say."""
        return bool(name) and any(same_name(name, own) for own in (self.id, *self.aliases))


def plain_name(name: str) -> str:
    """Returns the part of a base model's name or path that says which model it is, in lower case: without owner,
    folder, hub cache and the name of a quantisation. It is empty where nothing of the name says so."""
    path = name.strip().replace("\\", "/").rstrip("/")
    cached = _CACHED.search(path)
    last = cached["id"].split("--")[-1] if cached else PurePosixPath(path).name
    plain = last.lower().removesuffix(".gguf")
    while (shorter := _QUANTISATION.sub("", plain)) != plain and shorter:
        plain = shorter
    return plain.replace("_", "-")


def same_name(one: str, other: str) -> bool:
    """Whether two names mean the same base model, as far as words can say."""
    return one == other != "" or plain_name(one) == plain_name(other) != ""


def names_of(base: Path) -> tuple[str, ...]:
    """Returns the name that the base model in a folder gives itself (`_name_or_path` of its config.json), if any."""
    try:
        name = json.loads((base / "config.json").read_bytes()).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ()
    return (name,) if isinstance(name, str) and name else ()


def check_base(names: Iterable[str], layers: Layers, depth: int | None, base: BaseModel) -> tuple[str, ...]:
    """Checks that an adapter belongs to the base model that is served. Returns what is worth telling its provider.

    Where the base's layers are known and the adapter's tensors were read, their sizes decide, and a name that means
    another model is a note. Otherwise names decide, as nothing else can.

    Args:
        names: the base model's names in the words of the adapter and of its card.
        layers: the layers that the adapter changes; empty where its tensors were not read.
        depth: the number of decoder layers that its base must have had (`specs.adapter.Adapter`); None if unknown.
        base: the base model that is served.

    Raises:
        InvalidLearnware: it belongs to another base model.
    """
    others = [name for name in dict.fromkeys(names) if not base.is_called(name)]
    known = base.layers is not None and bool(layers)
    if not known and others:
        raise InvalidLearnware(f"it is an adapter for {others[0]!r}; the base model here is {base.id!r}")
    if base.layers is None or not known:
        return ()
    stranger = f"it is an adapter for {others[0]!r}; the base model here is {base.id!r}: " if others else ""
    try:
        check_fits(layers, base.layers)
    except InvalidLearnware as error:
        raise InvalidLearnware(f"{stranger}{error}") from None
    own = depth_of(base.layers)
    if others and depth is not None and depth != own:
        raise InvalidLearnware(f"{stranger}it was trained on {depth} decoder layers, and this has {own}")
    return tuple(
        f"it names {name!r} as its base model; every layer fits {base.id!r}, which is served. If it was trained on "
        "another model it will answer badly; if not, base_model.aliases can hold that name"
        for name in others
    )
