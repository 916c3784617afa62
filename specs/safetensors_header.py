"""The header of a safetensors file, read within bounds before anything maps or reads the file.

The format: eight bytes with the header's length, the header in JSON, which names each tensor's type, shape and place,
and the tensors' bytes one after the other. The library checks the same; but it takes headers of 100 MB, and makes
objects of all of them first.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from specs.untrusted import load_json

LENGTH_BYTES = 8
"""Bytes of the first field, which holds the header's length."""
HEADER_BYTES = 4 << 20
"""Size in bytes of the largest header that is read: some 30,000 tensors."""
TENSORS = 20_000
"""The most tensors of a file. LoRA on every layer of the largest models has some thousand."""
METADATA = "__metadata__"
"""Key of a header that names no tensor, but texts."""
ELEMENT_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes of an element by its type."""


class Place(NamedTuple):
    """A tensor by its file's header, with the offsets of its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_places(path: Path) -> dict[str, Place]:
    """Returns the tensors of a file by their names, in the order of the header.

    Raises:
        ValueError: the header is too large or wrong, or the tensors' bytes are not exactly the rest of the file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        whole = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if whole < LENGTH_BYTES or length > whole - LENGTH_BYTES:
            raise ValueError(f"a header of {length} bytes does not fit into a file of {whole}")
        if length > HEADER_BYTES:
            raise ValueError(f"its header has {length} bytes; {HEADER_BYTES} are the most")
        header = load_json(file.read(length), HEADER_BYTES)
    if not isinstance(header, dict):
        raise ValueError("its header must be an object")
    start = LENGTH_BYTES + length
    names = [name for name in header if name != METADATA]
    if len(names) > TENSORS:
        raise ValueError(f"it names {len(names)} tensors; {TENSORS} are the most")
    places = {name: _place(name, header[name], start) for name in names}
    _check_covers(places, start, whole)
    return places


def _place(name: str, found: Any, start: int) -> Place:
    if not isinstance(found, dict) or set(found) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{_short(name)} must have dtype, shape and data_offsets")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise ValueError(f"{_short(name)} has the unknown type {_short(str(dtype))}")
    if not _are_counts(shape) or len(shape) > 8 or not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{_short(name)}: shape and data_offsets must be whole numbers")
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise ValueError(f"{_short(name)} of {dtype} {shape} has {size} bytes, but its place {offsets} has not")
    return Place(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _check_covers(places: dict[str, Place], start: int, end: int) -> None:
    at = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != at:
            raise ValueError(f"{_short(name)} begins at byte {place.begin}, where {at} is right: a gap or an overlap")
        at = place.end
    if at != end:
        raise ValueError(f"its tensors end at byte {at}, and the file at {end}")


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
