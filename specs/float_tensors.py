"""Floating-point tensors of safetensors files as they lie on disk, bfloat16 among them, without torch: mapped, widened,
compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.safetensors_header import Place, read_places

INDEX_FILE = "model.safetensors.index.json"
"""File that says which part of a base model's weights holds which tensor."""
SINGLE_FILE = "model.safetensors"
"""File of a base model's weights that are not in parts."""
_KINDS: dict[str, Any] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64}
_BITS = {"BF16": 8, "F16": 11, "F32": 24, "F64": 53}
"""Bits of precision of each type."""
ROWS = 4096
"""Rows that are compared at a time: an embedding of 150,000 tokens widened at once would take gigabytes."""


class FloatTensor(NamedTuple):
    """A tensor of one of the float types. bfloat16 is kept as the 16 bits of its numbers."""

    dtype: str
    data: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions."""
        return self.data.shape

    @classmethod
    def joined(cls, parts: Sequence[NDArray[np.float32]], axis: int) -> "FloatTensor":
        """Makes one float32 tensor of several arrays."""
        return cls("F32", np.ascontiguousarray(np.concatenate(parts, axis=axis)))

    def as_float32(self) -> NDArray[np.float32]:
        """Returns the values in float32."""
        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return self.data.astype(np.float32)


def open_floats(path: Path) -> dict[str, FloatTensor]:
    """Maps every float tensor of a safetensors file; others are left out. Raises ValueError as
    `specs.safetensors_header.read_places` does."""
    return {
        name: FloatTensor(place.dtype, _mapped(path, place))
        for name, place in read_places(path).items()
        if place.dtype in _KINDS
    }


def save_floats(tensors: Mapping[str, FloatTensor], path: Path) -> None:
    """Writes tensors as a safetensors file. (The library's writer for numpy has no bfloat16.)"""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, tensor in tensors.items():
        offsets = [place, place + tensor.data.nbytes]
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        place = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.data).data)


def base_weight(base: Path, path: str) -> FloatTensor | None:
    """Returns the weights at a path of the base model in a folder (`lm_head.weight`), the input embedding's where its
    output layer has none of its own, or None where it has no such weights in a float type."""
    found = _stored(base, path)
    if found is None and path == "lm_head.weight":
        found = _stored(base, "model.embed_tokens.weight")
    return found


def equal_floats(one: FloatTensor, other: FloatTensor) -> bool:
    """Whether two tensors hold the same numbers, in the type of the one with fewer bits."""
    if one.shape != other.shape:
        return False
    narrow = min(one.dtype, other.dtype, key=_BITS.__getitem__)
    for start in range(0, one.shape[0] if one.shape else 1, ROWS):
        rows = slice(start, start + ROWS) if one.shape else ...
        if not np.array_equal(_rounded(one, rows, narrow), _rounded(other, rows, narrow), equal_nan=True):
            return False
    return True


def _rounded(tensor: FloatTensor, rows: Any, dtype: str) -> NDArray[Any]:
    part = FloatTensor(tensor.dtype, np.asarray(tensor.data[rows]))
    if dtype == tensor.dtype:
        return part.data if dtype != "BF16" else part.as_float32()
    if dtype != "BF16":
        return part.as_float32().astype(_KINDS[dtype])
    bits = part.as_float32().view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return (nearest << np.uint32(16)).view(np.float32)


def _stored(base: Path, name: str) -> FloatTensor | None:
    try:
        parts = json.loads((base / INDEX_FILE).read_bytes())["weight_map"]
        files = [base / parts[name]] if name in parts else []
    except FileNotFoundError:
        single = base / SINGLE_FILE
        files = [single] if single.is_file() else sorted(base.glob("*.safetensors"))
    return next((tensors[name] for file in files if name in (tensors := open_floats(file))), None)


def _mapped(path: Path, place: Place) -> NDArray[Any]:
    kind = _KINDS[place.dtype]
    if place.begin == place.end:
        return np.zeros(place.shape, kind)
    return np.memmap(path, kind, "r", place.begin, place.shape)
