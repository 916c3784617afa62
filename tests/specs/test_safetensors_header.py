"""Headers of safetensors files that are cut, lie, or are bombs."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from specs.safetensors_header import HEADER_BYTES, TENSORS, Place, read_places


def write(path: Path, header: Any, data: int = 32, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))
    return path


def tensor(begin: int = 0, end: int = 32, shape: Any = (2, 4), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


def test_what_the_library_writes_is_read(tmp_path: Path):
    values = {"b": np.zeros((2, 3), np.float16), "a": np.ones(4, np.float64), "empty": np.zeros((0, 5), np.float32)}
    save_file(values, tmp_path / "file", metadata={"format": "pt"})
    places = read_places(tmp_path / "file")
    start = (tmp_path / "file").stat().st_size - 44
    assert places["a"] == Place("F64", (4,), start, start + 32)
    assert (places["b"].shape, places["b"].end - places["b"].begin) == ((2, 3), 12)
    assert places["empty"].shape == (0, 5)


@pytest.mark.parametrize(
    ("header", "options", "reason"),
    [
        ({"a": tensor()}, {"length": 1 << 62}, "does not fit into a file"),
        ({"a": tensor()}, {"data": 31}, "tensors end at byte"),
        ({"a": tensor()}, {"data": 33}, "tensors end at byte"),
        ({"a": tensor(0, 16, (4,)), "b": tensor(8, 32, (6,))}, {}, "a gap or an overlap"),
        ({"a": tensor(8, 32, (6,))}, {}, "a gap or an overlap"),
        ({"a": tensor(0, 31)}, {}, "has 32 bytes, but its place"),
        ({"a": tensor(shape=(10**9, 10**9, 10**9))}, {}, "but its place"),
        ({"a": tensor(shape=(-2, -4))}, {}, "whole numbers"),
        ({"a": tensor(shape=(2.0, 4))}, {}, "whole numbers"),
        ({"a": tensor(shape=(True,) * 3)}, {}, "whole numbers"),
        ({"a": tensor(shape="24")}, {}, "whole numbers"),
        ({"a": tensor(shape=(1,) * 9)}, {}, "whole numbers"),
        ({"a": tensor(dtype="Q9")}, {}, "unknown type"),
        ({"a": tensor(dtype=["F32"])}, {}, "unknown type"),
        ({"a": {"dtype": "F32"}}, {}, "must have dtype, shape and data_offsets"),
        ({"a": 5}, {}, "must have dtype, shape and data_offsets"),
        ([1], {}, "must be an object"),
        (b"[" * 100_000, {}, "nested deeper"),
        (b"{", {}, "Expecting"),
        (b'{"a": ' + b"9" * 5000 + b"}", {}, "more than 32 characters"),
        ({f"{number}": tensor(0, 0, (0,)) for number in range(TENSORS + 1)}, {"data": 0}, "20000 are the most"),
        (b" " * (HEADER_BYTES + 1), {}, f"{HEADER_BYTES} are the most"),
    ],
)
def test_a_wrong_header_is_refused_at_once(tmp_path: Path, header: Any, options: dict[str, Any], reason: str):
    path = write(tmp_path / "file", header, **options)
    started = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        read_places(path)
    assert time.perf_counter() - started < 1


def test_a_file_shorter_than_its_first_field_is_refused(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"\x01\x02")
    with pytest.raises(ValueError, match="does not fit into a file of 2"):
        read_places(tmp_path / "file")
