"""What strangers write is read within bounds, and refused in milliseconds."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from specs.untrusted import JSON_DEPTH, YAML_DEPTH, load_json, load_yaml, read_json

AT_ONCE_S = 0.5
"""A refusal takes some milliseconds; the machine that tests run on may be busy."""
BOMBS = {
    "200 kB of [": (b"[" * 200_000, "more than 64 KiB"),
    "60 kB of [": (b"[" * 60_000, "deeper than 8 levels"),
    "60 kB of {": (b"{a: " * 15_000, "deeper than 8 levels"),
    "nested in blocks": (b"".join(b" " * n + b"a:\n" for n in range(100)), "deeper than 8 levels"),
    "nested sequences": (b"- " * 30_000 + b"x", "deeper than 8 levels"),
    "billion laughs": (
        b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 123)),
        "an anchor (&a) in line 1",
    ),
    "an alias to nothing": (b"a: *b", "alias"),
    "an anchor alone": (b"a: &b c", "an anchor (&b)"),
    "a merge": (b"a: &b {c: d}\ne:\n  <<: *b\n", "an anchor (&b)"),
    "a tag": (b"a: !!python/object/apply:os.system ['x']", "a tag (tag:yaml.org,2002:python/object/apply:os.system)"),
    "a plain tag": (b"a: !!str b", "a tag"),
    "a number in base 60": (b"a: 1" + b":1" * 30_000, "a number of more than 32 characters in line 1"),
    "a long number": (b"a: " + b"9" * 60_000, "a number of more than 32 characters"),
    "a date that is none": (b"a: 2020-13-45", "month must be in"),
    "two documents": (b"a: b\n---\nc: d\n", "single document"),
    "a control character": (b"a: \x00", "not allowed"),
    "no UTF-8": (b"a: \xff", "utf-8"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_beyond_the_bounds_is_refused_at_once(name: str):
    content, reason = BOMBS[name]
    started = time.perf_counter()
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the reason is compared below
        load_yaml(content)
    assert time.perf_counter() - started < AT_ONCE_S
    assert reason in str(refused.value)
    assert len(str(refused.value)) < 500


def test_yaml_within_the_bounds_is_read():
    assert load_yaml(b"a: 'x'\nb: [1, 2.5, true, null]\nc:\n  d: |\n    two\n    lines\n") == {
        "a": "x",
        "b": [1, 2.5, True, None],
        "c": {"d": "two\nlines\n"},
    }
    deep = b"[" * YAML_DEPTH + b"]" * YAML_DEPTH
    assert load_yaml(deep) == json.loads(deep)
    assert load_yaml(b"a: '" + b"9" * 40 + b"'") == {"a": "9" * 40}
    assert load_yaml(b"a: " + "é".encode() * 1000) == {"a": "é" * 1000}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "deeper than 16 levels"),
        (b"[" * (JSON_DEPTH + 1) + b"]" * (JSON_DEPTH + 1), "deeper than 16 levels"),
        (b'{"a":' * (JSON_DEPTH + 1) + b"1" + b"}" * (JSON_DEPTH + 1), "deeper than 16 levels"),
        (b'{"r": ' + b"9" * 900_000 + b"}", "more than 32 characters"),
        (b'{"r": NaN}', "NaN is no JSON"),
        (b'{"r": -Infinity}', "-Infinity is no JSON"),
        (b'{"r": 1e999}', "1e999 is beyond"),
        (b" " * (1 << 20) + b"1", "more than 1 MiB"),
        (b"\xff\xfe\xfd", "codec"),
    ],
)
def test_json_beyond_the_bounds_is_refused_at_once(content: bytes, reason: str):
    started = time.perf_counter()
    with pytest.raises(ValueError, match=reason):
        load_json(content)
    assert time.perf_counter() - started < AT_ONCE_S


def test_json_within_the_bounds_is_read(tmp_path: Path):
    deep = "[" * JSON_DEPTH + "]" * JSON_DEPTH
    for text in (deep, '{"a": [1, -2.5, 1e9, true, null, "x"]}', "9" * 32):
        (tmp_path / "file.json").write_text(text)
        assert read_json(tmp_path / "file.json") == json.loads(text)


def test_a_file_is_not_read_beyond_its_bound(tmp_path: Path):
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 1 MiB"):
        read_json(tmp_path / "large.json")


def _specification(folder: Path) -> object:
    from specs.specification import load_specification

    return load_specification(folder)


def _capability(folder: Path) -> object:
    from specs.capability import load_capability

    return load_capability(folder)


def _config(folder: Path) -> object:
    from specs.adapter_config import read_config

    return read_config(folder)


@pytest.mark.parametrize(
    ("name", "read"),
    [("adapter_config.json", _config), ("specification.json", _specification), ("capability.json", _capability)],
)
@pytest.mark.parametrize("content", [b"[" * 200_000, b"9" * 900_000, b'{"a": NaN}', b" " * (9 << 20)])
def test_every_file_of_a_learnware_is_read_so(
    tmp_path: Path, name: str, read: Callable[[Path], object], content: bytes
):
    from specs.errors import InvalidInput

    (tmp_path / name).write_bytes(content)
    started = time.perf_counter()
    with pytest.raises(InvalidInput, match=f"{name} is not JSON"):
        read(tmp_path)
    assert time.perf_counter() - started < AT_ONCE_S
