"""The default configuration as a file to edit: every key, what it means, and its default.

What is said of a key comes from its field in the models (`serving.config`): the description, and the values that it may
have. `deploy/cpu.yaml` is this text.
"""

import sys
import textwrap
from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from serving.config import Config

COLUMNS = 120
INDENT = "  "

_HEAD = """\
The configuration with every key and its default: the embedded 135M base model and the starter learnwares on this
machine's CPU. A key that is left out has its default, so a file of your own needs only those that differ.
`learnware-serving config` prints this file; `learnware-serving check --config FILE` validates one."""

_NOTES: Mapping[str, str] = {
    "engine.slots": (
        "In bfloat16 a slot of rank 16 takes at most 16 x (30 layers x 10,176 inputs and outputs of q, k, v, o, gate, "
        "up, down, and two embeddings of 49,152 + 576) x 2 bytes = 12.95 MB, eight of them 104 MB; in float32 twice "
        "that. (Hidden 576, 9 query heads and 3 key and value heads of 64, intermediate 1,536.)"
    ),
    "engine.max_ongoing_requests": "By default 16 running ones and 240 that wait.",
    "engine.kv_cache_gib": (
        "A token's keys and values take 2 x 30 x 3 x 64 x 2 bytes = 23,040 bytes: 1 GiB holds 46,603 tokens, 5 "
        "requests of the model's whole context of 8,192 tokens and 5,643 more, or 16 requests of 2,048 and 13,835 "
        "more. In float32 it holds 23,301, 2 requests of 8,192: when longer ones come together, the last of them wait."
    ),
}
"""Arithmetic of a default with the embedded base model, by the key's path; `tests/deploy/test_configurations.py`
repeats it."""

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "of length at least"}
"""Pydantic's names of bounds, and how they are said."""


def default_file() -> str:
    """The whole default configuration as commented YAML, in the order of the models. `load_config` reads it as
    `Config()`."""
    return "\n".join([*_comment(_HEAD), *_keys(Config, Config().model_dump(mode="json"))]) + "\n"


def _keys(model: type[BaseModel], values: Mapping[str, Any], parents: tuple[str, ...] = ()) -> Iterator[str]:
    """The lines of a model's keys, each below its comment. Sections, and what stands beside them at the top, are set
    apart by an empty line."""
    indent = INDENT * len(parents)
    for name, field in model.model_fields.items():
        path = (*parents, name)
        section = _section_of(field)
        if section is not None or not parents:
            yield ""
        if section is None:
            yield from _comment(f"{field.description} {_allowed(field)}", indent)
            yield from _comment(_NOTES.get(".".join(path), ""), indent)
            yield from textwrap.indent(_entry(name, values[name], COLUMNS - len(indent)), indent).splitlines()
        else:
            yield from _comment(cleandoc(section.__doc__ or ""), indent)
            yield f"{indent}{name}:"
            yield from _keys(section, values[name], path)


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that holds further keys."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _comment(text: str, indent: str = "") -> Iterator[str]:
    """The text's paragraphs as comment lines of at most `COLUMNS` characters; none for an empty text."""
    start = f"{indent}# "
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield start.rstrip()
        words = " ".join(paragraph.split())
        lines = textwrap.wrap(words, COLUMNS - len(start), break_long_words=False, break_on_hyphens=False)
        yield from (start + line for line in lines)


def _allowed(field: FieldInfo) -> str:
    """The values that a field may have, as a sentence after its description; empty where its type says it all."""
    if get_origin(field.annotation) is Literal:
        return f"One of {', '.join(map(str, get_args(field.annotation)))}."
    bounds = {
        name: value
        for constraint in field.metadata
        for name in _BOUNDS
        if (value := getattr(constraint, name, None)) is not None
    }
    if bounds.keys() == {"ge", "le"}:
        return f"From {bounds['ge']:,} to {bounds['le']:,}."
    said = " and ".join(f"{_BOUNDS[name]} {value:,}" for name, value in bounds.items())
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def _entry(name: str, value: Any, columns: int) -> str:
    """A key and its value as YAML: in one line, but a list that does not fit has one line for each element."""
    if isinstance(value, list):
        flow = _dump(value, flow=True)
        if len(line := f"{name}: {flow}") <= columns:
            return line
        return f"{name}:\n{textwrap.indent(_dump(value), INDENT)}"
    return _dump({name: value})


def _dump(value: Any, *, flow: bool = False) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, sort_keys=False, width=sys.maxsize)
    return text.rstrip("\n")
