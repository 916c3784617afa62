"""The descriptions of learnwares, as `market show`, `GET /v1/learnwares` and `GET /v1/learnwares/{id}` give them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from serving.feedback.description import describe_evidence, describe_probes
from specs.canary import learnware_of
from specs.capability import Capability, harm, load_capability
from specs.errors import InvalidInput, InvalidSpecification
from specs.learnware import SPECIFICATION_FOLDER
from specs.market.canaries import outcome
from specs.market.journal import Record, State, describe
from specs.market.store import Market
from specs.off_task import Kind
from specs.specification import DESCRIPTION_FILE

HARMFUL = 0.2
"""Loss off the task, in probability, from which on `market show` adds a note on its consequence: more than most
learnwares gain on their own tasks."""


BY_NAME_ONLY = (
    "it has no specification, so it answers requests that name it and is never chosen: replace it with one made with "
    "rows of its task"
)
"""The reason why `auto` never chooses a learnware without a specification."""


def describe_listed(market: Market, record: Record, canaries: Mapping[str, Record] | None = None) -> dict[str, Any]:
    """Describes a record as a list has it, with `chosen_by_auto`: whether requests that name no learnware may get it;
    and with its canary, or null. `canaries` holds those that run, by learnware (default: the market is asked)."""
    described = describe(record)
    if record.share is None:
        holds = record.state in (State.ACTIVE, State.UNFIT)
        canary = (market.canary(record.id) if canaries is None else canaries.get(record.id)) if holds else None
        described |= {"canary": None if canary is None else describe_canary(canary)}
    folder = market.folder(record) if record.state is State.ACTIVE else None
    if folder is None:
        return described | {"chosen_by_auto": False, "not_chosen_because": "it is not served"}
    if record.share is not None:  # its share is of what its learnware is chosen for
        folder = market.folder(market.active(learnware_of(record.id))) or folder
    if not (folder / SPECIFICATION_FOLDER / DESCRIPTION_FILE).is_file():
        return described | {"chosen_by_auto": False, "not_chosen_because": BY_NAME_ONLY}
    return described | {"chosen_by_auto": True}


def describe_canary(record: Record) -> dict[str, Any]:
    """Describes a canary: the version, its share, the time since when, the hash, and, of one that is over, until when,
    the outcome, and the reason."""
    assert record.since is not None
    described = {
        "version": record.version,
        "share": record.share,
        "since": record.since.isoformat(timespec="seconds"),
        "sha256": record.sha256,
    }
    if (came_of_it := outcome(record)) is None:
        return described
    until = record.changed.isoformat(timespec="seconds")
    return described | {"until": until, "outcome": came_of_it, "reason": record.reason}


def describe_whole(market: Market, record: Record) -> dict[str, Any]:
    """Describes a record as a list has it, with the canaries that the learnware had, and, while its files are kept,
    its learnware off its task and what is known of its tasks from where (probes, feedback), as JSON values."""
    listed = describe_listed(market, record)
    if record.share is None:
        listed |= {"canaries": [describe_canary(past) for past in market.past_canaries(record.id)]}
    folder = market.folder(record)
    if folder is None:
        return listed
    try:
        capability = load_capability(folder / SPECIFICATION_FOLDER)
    except (InvalidSpecification, OSError):
        capability = None  # a learnware in quarantine may have a broken one
    known = {"probes": describe_probes(capability), "feedback": _feedback(market, record)}
    return listed | {"off_task": off_task(capability), "known": known}


def _feedback(market: Market, record: Record) -> dict[str, Any]:
    """Describes what feedback says of a learnware, or why that cannot be told."""
    try:
        return describe_evidence(market.root, record.id)
    except InvalidInput as error:
        return {"fault": str(error)}


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
