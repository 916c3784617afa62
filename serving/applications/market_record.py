"""The full description of one learnware, as `market show` and `GET /v1/learnwares/{id}` give it."""

from dataclasses import asdict
from typing import Any

from specs.capability import Capability, harm, load_capability
from specs.errors import InvalidSpecification
from specs.learnware import SPECIFICATION_FOLDER
from specs.market.journal import Record, describe
from specs.market.store import Market
from specs.off_task import Kind

HARMFUL = 0.2
"""Loss off the task, in probability, from which on `market show` adds a note on its consequence: more than most
learnwares gain on their own tasks."""


def describe_whole(market: Market, record: Record) -> dict[str, Any]:
    """Describes a record and, while its learnware's files are kept, its learnware off its task, as JSON values."""
    folder = market.folder(record)
    if folder is None:
        return describe(record)
    try:
        capability = load_capability(folder / SPECIFICATION_FOLDER)
    except (InvalidSpecification, OSError):
        capability = None  # a learnware in quarantine may have a broken one
    return describe(record) | {"off_task": off_task(capability)}


def off_task(capability: Capability | None) -> dict[str, Any]:
    """Describes a learnware off its task: the measurements by kind of request (null where there are none), the loss
    expected there, and the consequence in words."""
    elsewhere = {} if capability is None else capability.elsewhere
    kinds = {
        str(kind): None
        if score is None
        else {name: round(value, 4) for name, value in asdict(score).items()}
        | {
            "degenerate_share": [round(value, 4) for value in score.degenerate_share],
            "drift_interval": [round(value, 4) for value in score.drift_interval],
        }
        for kind, score in ((kind, elsewhere.get(kind)) for kind in Kind)
    }
    losses = {str(kind): round(harm(capability, kind), 4) for kind in Kind}
    harmful = [kind for kind, loss in losses.items() if loss >= HARMFUL]
    missing = [kind for kind, values in kinds.items() if values is None]
    notes = []
    if harmful:
        notes.append(f"auto will rarely choose it for requests that may be of these kinds: {', '.join(harmful)}")
    if missing:
        notes.append(f"not measured, so the worst is assumed: {', '.join(missing)}")
    return {
        "measured": kinds,
        "loss": losses,
        "note": "; ".join(notes) or "it keeps the base model off its task",
        "protocol": "" if capability is None else capability.elsewhere_protocol,
    }
