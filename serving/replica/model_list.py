"""The model objects that `GET /v1/models` lists: every value that `model` may hold, but for tasks."""

from collections.abc import Iterable, Mapping
from typing import Any

from specs.canary import is_canary, learnware_of
from specs.card import Card

_OWNER = "learnware-serving"


def model_objects(
    template: Mapping[str, Any], base: str, auto_names: Iterable[str], cards: Mapping[str, Card]
) -> list[dict[str, Any]]:
    """Returns the model objects of the automatic names, the base model, and the learnwares and canaries.

    Args:
        template: the base model's object as vLLM lists it, whose other fields all of them have.
        base: the base model's id.
        auto_names: the automatic names.
        cards: cards by id; that of a canary has its learnware's id.
    """
    template = {**template, "root": base, "parent": None}
    ours = {**template, "parent": base, "owned_by": _OWNER}
    return [
        *({**ours, "id": name} for name in auto_names),
        {**template, "id": base},
        *({**ours, "id": name, "root": name, "learnware": _described(name, card)} for name, card in cards.items()),
    ]


def _described(name: str, card: Card) -> dict[str, Any]:
    described = {
        "version": card.version,
        "description": card.description,
        "domain": card.domain,
        "tasks": list(card.tasks),
    }
    return described | ({"canary_of": learnware_of(name)} if is_canary(name) else {})
