"""Merges Prometheus expositions (text format 0.0.4) of several processes into one valid exposition.

Each family appears once, with one HELP and one TYPE line; each process' samples carry labels that tell them apart, so
no two series are the same. The samples themselves are copied as text, which keeps their exact values and costs little.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the Prometheus text format."""

_SUFFIXES = ("_bucket", "_count", "_sum", "_total", "_created")
"""Endings of the names of a family's samples."""
_PAIR = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*"'
_LABEL = re.compile(rf"(?=([a-zA-Z_][a-zA-Z0-9_]*)=){_PAIR}")
_NUMBER = r"[+-]?(?:[0-9][0-9.eE+-]*|\.[0-9]+|Inf|NaN)"
_SAMPLE = re.compile(
    rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({_PAIR}(?:,{_PAIR})*,?)?\}})?\s+({_NUMBER}(?:\s+-?[0-9]+)?)\s*"
)


class Exposition(NamedTuple):
    """One process' metrics, and the labels that mark them."""

    labels: Mapping[str, str]
    text: str


@dataclass
class _Family:
    name: str
    help: str = ""
    type: str = ""
    samples: list[str] = field(default_factory=list)


def merge(expositions: Iterable[Exposition]) -> str:
    """Returns one exposition with every series of all of them.

    A label that a sample has already and an exposition also sets is kept as `exported_<label>`, as Prometheus itself
    does. The first HELP and TYPE of a family count; samples that another process reports under a conflicting TYPE are
    left out, since one family has one type.

    Raises:
        ValueError: a line is neither a comment nor a sample; the message quotes it.
    """
    families: dict[str, _Family] = {}
    for exposition in expositions:
        _add(families, exposition)
    return "".join(_render(family) for family in families.values() if family.samples)


def _add(families: dict[str, _Family], exposition: Exposition) -> None:
    extra = ",".join(f'{name}="{escape(value)}"' for name, value in exposition.labels.items())
    types: dict[str, str] = {}
    for line in exposition.text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, *rest = line.split(" ", 3)
            family = families.setdefault(name, _Family(name))
            family.help = family.help or "".join(rest)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            family = families.setdefault(name, _Family(name))
            types[name] = kind.strip()
            family.type = family.type or types[name]
        elif line and not line.startswith("#"):
            _add_sample(families, types, line, exposition.labels, extra)


def _add_sample(
    families: dict[str, _Family], types: Mapping[str, str], line: str, labels: Mapping[str, str], extra: str
) -> None:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of the Prometheus text format: {line[:200]!r}")
    name, own, value = match[1], match[2] or "", match[3]
    owner = _family_of(name, types)
    family = families.setdefault(owner, _Family(owner))
    if family.type != types.get(owner, family.type):
        return
    if any(f'{label}="' in own for label in labels):
        own = _LABEL.sub(lambda pair: f"exported_{pair[0]}" if pair[1] in labels else pair[0], own)
    joined = ",".join(part for part in (own.rstrip(","), extra) if part)
    family.samples.append(f"{name}{{{joined}}} {value}" if joined else f"{name} {value}")


def _family_of(sample: str, types: Mapping[str, str]) -> str:
    """Returns the family of a sample: itself, or the histogram, summary or counter whose suffix its name has."""
    if sample in types:
        return sample
    return next(
        (stem for suffix in _SUFFIXES if sample.endswith(suffix) and (stem := sample.removesuffix(suffix)) in types),
        sample,
    )


def _render(family: _Family) -> str:
    lines = [f"# HELP {family.name} {family.help}"] if family.help else []
    lines.append(f"# TYPE {family.name} {family.type or 'untyped'}")
    return "\n".join([*lines, *family.samples]) + "\n"


def escape(value: str) -> str:
    """Returns a label's value as the text format writes it between quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
