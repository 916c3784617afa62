"""`learnware.yaml`, the card of a learnware: what people and searches read about it.

The semantic fields are those of the `learnware` package 0.4.0.post1 (data, task and library type, scenario), so that
its zip files can be converted. YAML is read with the safe loader and within bounds (`specs.untrusted`); texts are
bounded by `specs.card_text`; unknown keys are refused with the nearest valid name.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from specs.card_text import card_fault
from specs.errors import InvalidLearnware
from specs.suggestion import did_you_mean
from specs.untrusted import YAML_BYTES, load_yaml, read_bounded

CARD_FILE = "learnware.yaml"
"""File name of the card in a learnware's folder."""

ID_LENGTH = 96
"""The most characters of an id, owner and slash included: every header, label and engine name that holds one is made
for this length."""
RESERVED_NAMES = frozenset({"promote", "purge", "quarantine", "release", "roll-back", "versions"})
"""Names that no id has after its slash: `/v1/learnwares/{id}/quarantine` is a path of the learnware `{id}`, and cannot
be that of a learnware too however its slash is written, since proxies on the way may write `%2F` as `/`. The others are
kept free for further paths of that form: an id that was given away cannot be taken back."""
_SHOWN_FAULTS = 5
"""Faults of a card that one message names: a hostile card may have thousands."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")


def id_fault(value: str) -> str | None:
    """Returns what is wrong with a learnware's id, as a sentence that says what would be right; None if nothing is.

    Ids stand in HTTP headers, paths and `model` fields, so they are plain ASCII; they are never a path on disk. The one
    slash that they may hold divides an owner from a name, as in the ids of the Hugging Face hub.
    """
    if not _ID.fullmatch(value) or len(value) > ID_LENGTH:
        shown = value if len(value) <= ID_LENGTH else f"{value[:ID_LENGTH]}…"
        return (
            f"{shown!r} is no learnware's id: an id is a name, or an owner and a name with a slash between them, of "
            f"up to {ID_LENGTH} characters in all; each of the two begins with a letter or a digit and goes on with "
            "letters, digits, dots, underscores and hyphens"
        )
    name = value.partition("/")[2]
    if name in RESERVED_NAMES:
        return f"{value!r} cannot be a learnware's id: after the slash {name!r} is reserved for the HTTP API's paths"
    return None


def _check_id(value: str) -> str:
    if fault := id_fault(value):
        raise ValueError(fault)
    return value


LearnwareId = Annotated[str, AfterValidator(_check_id)]
"""A learnware's id: `name`, or `owner/name` (`id_fault`)."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseModelReference(_Section):
    """The base model that an adapter was trained on, and its revision if the provider names one."""

    id: str = Field(min_length=1, description="As in `base_model_name_or_path` of adapter_config.json.")
    revision: str | None = None


class Semantics(_Section):
    """The semantic specification of the `learnware` package 0.4.0.post1."""

    data_type: str = "Text"
    task_type: str = "Text Generation"
    library_type: str = "PEFT"
    scenarios: tuple[str, ...] = ()


class Card(_Section):
    """The content of `learnware.yaml`. `examples` are requests in the provider's own words; they become a view of the
    specification."""

    id: LearnwareId
    version: int = Field(1, ge=1)
    name: str = Field(min_length=1)
    description: str = Field(min_length=1)
    base_model: BaseModelReference
    domain: str = Field(min_length=1)
    tasks: tuple[str, ...] = Field(min_length=1)
    languages: tuple[str, ...] = Field(min_length=1, description="ISO 639-1 codes.")
    licence: str = Field(min_length=1)
    author: str = Field(min_length=1)
    source: str | None = Field(
        None, description="Where the training data comes from, with the attribution it asks for."
    )
    training: str | None = Field(None, description="One line: rows, steps, rank.")
    semantics: Semantics = Field(default_factory=Semantics)
    examples: tuple[str, ...] = Field((), description="Requests in the provider's own words.")


def load_card(path: Path) -> Card:
    """Reads and checks a card; executes nothing. Raises InvalidLearnware, which names the field that is wrong."""
    try:
        values = load_yaml(read_bounded(path, YAML_BYTES))
    except FileNotFoundError:
        raise InvalidLearnware(f"{CARD_FILE} is missing; `learnware-serving learnware add` writes one") from None
    except ValueError as error:
        raise InvalidLearnware(f"{CARD_FILE} is not YAML as a card is written: {error}") from None
    if not isinstance(values, dict):
        raise InvalidLearnware(f"{CARD_FILE} must hold keys and values")
    try:
        card = Card.model_validate(values)
    except ValidationError as error:
        faults = error.errors()
        said = [_explain(dict(fault)) for fault in faults[:_SHOWN_FAULTS]]
        said += [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        raise InvalidLearnware(f"{CARD_FILE}: {'; '.join(said)}") from None
    if fault := card_fault(card):
        raise InvalidLearnware(f"{CARD_FILE}: {fault}")
    return card


def readable_card(path: Path) -> Card | None:
    """Returns a card, or None where there is none that can be read."""
    try:
        return load_card(path)
    except InvalidLearnware:
        return None


def save_card(card: Card, path: Path) -> None:
    """Writes a card as YAML, without fields that are None."""
    values = card.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def reason_of(fault: Mapping[str, Any]) -> str:
    """Returns the reason of one of pydantic's validation errors; that of a check of our own is in our words alone."""
    return str(fault.get("ctx", {}).get("error", fault["msg"]))


def _explain(fault: dict[str, Any]) -> str:
    """Puts one validation fault into words, with the nearest valid name for an unknown key."""
    place = ".".join(str(part)[:ID_LENGTH] for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{place}: {reason_of(fault)}"
    sections: dict[str, type[BaseModel]] = {"base_model": BaseModelReference, "semantics": Semantics}
    owner = sections.get(str(fault["loc"][0]), Card) if len(fault["loc"]) > 1 else Card
    hint = did_you_mean(str(fault["loc"][-1]), owner.model_fields, most=1)
    return f"unknown key {place}" + (hint or f"; there are {list(owner.model_fields)}")
