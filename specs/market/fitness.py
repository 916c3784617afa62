"""Tells a learnware that is broken from one that is whole but does not fit today's configuration.

A broken one is for quarantine. An unfit one, made for another base model or of a rank that the engine's slots do not
hold, is kept: it is served as soon as the configuration fits it. Weights are read by their headers alone, which takes
under a millisecond; values were checked when the learnware was submitted, and the engine checks them when it loads
them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from specs.adapter import check_adapter
from specs.card import Card
from specs.errors import InvalidLearnware
from specs.learnware import Learnware, learnware_folders, load_learnware, served_over
from specs.market.checks import Requirements, check_fits_market
from specs.pave import ParameterVector

BROKEN = "broken"
"""Kind of a learnware whose files are wrong or missing."""
UNFIT = "unfit"
"""Kind of a learnware that is whole, but not for the base model or the engine of today's configuration."""
DUPLICATE = "duplicate"
"""Kind of a learnware whose id another folder has, which comes first by name."""


class Unserved(NamedTuple):
    """A learnware's folder that is not served, by its name; the kind of reason; and the reason in words, which name the
    learnware."""

    folder: Path
    kind: str
    reason: str


class _Facts(NamedTuple):
    id: str
    base_names: tuple[str, ...]
    base_revisions: frozenset[str]
    rank: int
    layers: Mapping[str, tuple[int, int]]
    depth: int | None
    vector: ParameterVector | None


def why_unfit(card: Card, folder: Path, requirements: Requirements) -> str | None:
    """Returns why the learnware with this card does not fit, or None if it does. Its adapter's configuration and header
    are read. The basis of a parameter vector is not compared: it matters to submissions alone.

    Raises:
        InvalidLearnware: the adapter in `folder` is broken or missing.
    """
    try:
        adapter = check_adapter(folder, values=False)
    except OSError as error:
        raise InvalidLearnware(f"learnware {card.id} cannot be read: {error}") from None
    except InvalidLearnware as error:
        raise InvalidLearnware(f"learnware {card.id}: {error}") from None
    revisions = frozenset(filter(None, (card.base_model.revision, adapter.revision)))
    names = tuple(dict.fromkeys(filter(None, (adapter.base_model, card.base_model.id))))
    facts = _Facts(card.id, names, revisions, adapter.rank, adapter.layers, adapter.depth, None)
    try:
        check_fits_market(facts, requirements)
    except InvalidLearnware as error:
        return str(error)
    return None


def examine(root: Path, requirements: Requirements, *, values: bool = False) -> Iterator[Learnware | Unserved]:
    """Yields, for each sub-folder of `root` in the order of their names, its learnware or why it is not served. With
    `values` all weights are read.

    Raises:
        InvalidLearnware: `root` is no folder.
    """
    first: dict[str, Path] = {}
    for folder in learnware_folders(root):
        try:
            learnware = load_learnware(folder, values=values)
        except InvalidLearnware as error:
            yield Unserved(folder, BROKEN, _telling(folder, requirements, str(error)))
            continue
        try:
            check_fits_market(learnware, requirements)
        except InvalidLearnware as error:
            yield Unserved(folder, UNFIT, _naming(folder, str(error)))
            continue
        if learnware.id in first:
            yield Unserved(folder, DUPLICATE, same_id(learnware.id, first[learnware.id], folder))
            continue
        first[learnware.id] = folder
        yield learnware if requirements.served is None else served_over(learnware, requirements.served)


def same_id(learnware_id: str, first: Path, second: Path) -> str:
    """Returns the sentence on two folders of one id, of which the first is served."""
    return f"two learnwares with the id {learnware_id!r}: {first.name} is served, {second.name} is not"


def _telling(folder: Path, requirements: Requirements, reason: str) -> str:
    """Returns the reason that says most: a broken learnware may be for another base model, too."""
    try:
        load_learnware(folder, base_model=requirements.served, values=False)
    except InvalidLearnware as error:
        return str(error)
    return reason


def _naming(folder: Path, reason: str) -> str:
    return reason if folder.name in reason else f"{folder.name}: {reason}"
