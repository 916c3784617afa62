"""JSON and YAML that strangers wrote, read within bounds: size before parsing, depth, numbers, and for YAML no aliases.

Whoever uploads a learnware chooses every byte of its card, its configuration and its specifications. A parser left
alone makes 100 MB out of 100 kB of YAML aliases, runs out of stack on 200 kB of `[`, and takes seconds for a number of
a million digits; Python's JSON also reads NaN and Infinity, which no JSON has.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import yaml

JSON_BYTES = 1 << 20
"""Size in bytes of the largest JSON file that is read. The configuration of an adapter that names a rank for every
layer of a large model has some 100 kB."""
JSON_DEPTH = 16
"""Levels of objects and arrays in each other; the files that are read here have five."""
NUMBER_DIGITS = 32
"""The most characters of a whole number: more than any count or size needs."""
YAML_BYTES = 64 << 10
"""Size in bytes of the largest YAML file that is read; the cards of the starter learnwares have up to 10 kB."""
YAML_DEPTH = 8
"""Levels of mappings and sequences in each other; a card has three."""

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's safe loader, in C where PyYAML was built with libyaml: a card then takes 1 ms instead of 10, during which
other requests of the process would wait."""
_LONG_NUMBER = re.compile(rf"[-+.:_0-9]{{{NUMBER_DIGITS},}}")
"""A plain scalar that YAML 1.1 may take for a number; in base 60 it takes quadratic time."""


def read_bounded(path: Path, most: int) -> bytes:
    """Returns a file's content.

    Raises:
        ValueError: it has more than `most` bytes; no more than that are read.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return read_open(file, most)


def read_open(file: IO[bytes], most: int) -> bytes:
    """Returns the rest of an open file. Raises ValueError when it has more than `most` bytes."""
    content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {_size(most)}")
    return content


def load_json(content: bytes | str, most: int = JSON_BYTES) -> Any:
    """Returns the value that a JSON text stands for.

    Raises:
        ValueError: it has more than `most` bytes, is no JSON, is nested deeper than `JSON_DEPTH`, or holds a number
            that is not finite or has more than `NUMBER_DIGITS` characters.
    """
    if len(content) > most:
        raise ValueError(f"it has more than {_size(most)}")
    try:
        value = json.loads(content, parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels") from None
    if _deeper(value, JSON_DEPTH):
        raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels")
    return value


def read_json(path: Path, most: int = JSON_BYTES) -> Any:
    """Returns the value in a JSON file. Raises ValueError as `load_json` does, and OSError when it cannot be read."""
    return load_json(read_bounded(path, most), most)


def load_yaml(content: bytes, most: int = YAML_BYTES) -> Any:
    """Returns the value that a YAML text in UTF-8 stands for: mappings, sequences, texts, numbers, dates.

    Raises:
        ValueError: it has more than `most` bytes, is no YAML, is nested deeper than `YAML_DEPTH`, or has an anchor, an
            alias, a tag or a number of more than `NUMBER_DIGITS` characters.
    """
    if len(content) > most:
        raise ValueError(f"it has more than {_size(most)}")
    text = content.decode("utf-8")
    try:
        _check_events(yaml.parse(text, Loader=_SAFE_LOADER))
        return yaml.load(text, Loader=_SAFE_LOADER)  # noqa: S506 (safe, and in C)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"it holds a value that is none: {error}") from None


def _check_events(events: Iterable[Any]) -> None:
    """Goes over the parser's events, which it makes one after the other without recursion, before anything is built."""
    depth = 0
    for event in events:
        where = f"in line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias (*{event.anchor}) {where}; write the value out")
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            continue
        if event.anchor is not None:
            raise ValueError(f"it has an anchor (&{event.anchor}) {where}; write the value out where it is needed")
        if event.tag is not None:
            raise ValueError(f"it has a tag ({event.tag}) {where}; texts, numbers, lists and mappings need none")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > YAML_DEPTH:
                raise ValueError(f"it is nested deeper than {YAML_DEPTH} levels {where}")
        elif event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
            raise ValueError(f"it has a number of more than {NUMBER_DIGITS} characters {where}; put a text into quotes")


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _whole(text: str) -> int:
    if len(text) > NUMBER_DIGITS:
        raise ValueError(f"it has a number of more than {NUMBER_DIGITS} characters")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:NUMBER_DIGITS]} is beyond what a number can be")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB" if count >= 1 << 10 else f"{count} bytes"
