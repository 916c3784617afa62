"""A learnware on disk: an adapter with its card and its specifications, in one folder.

    <folder>/adapter_config.json           PEFT, as is
    <folder>/adapter_model.safetensors     PEFT, as is
    <folder>/learnware.yaml                the card (`specs.card`)
    <folder>/specification/                its specifications, by type (`specs.specification_types`)

Without the specification of its prompts a learnware answers requests that name it, and is never chosen for one.

Loading parses YAML (safe), JSON and safetensors, and executes nothing. Every fault is found here, with a message
that says what would be right, rather than by the engine under traffic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specs.adapter import check_adapter
from specs.capability import CAPABILITY, Capability
from specs.card import CARD_FILE, load_card
from specs.errors import DuplicateLearnware, InvalidLearnware, InvalidSpecification
from specs.pave import PAVE, ParameterVector
from specs.specification import RKME_TEXT, Specification, with_asks
from specs.specification_types import FOLDER, ROUTED_TYPES, TYPES, specifications_of

SPECIFICATION_FOLDER = FOLDER
"""Name of the folder of specifications inside a learnware's folder."""
MOST_ASKS = 16
"""The most examples of the card whose asks are given to a specification of format 1: each new ask takes some
milliseconds."""


@dataclass(frozen=True)
class Learnware:
    """A checked learnware. vLLM loads the adapter from `folder`."""

    id: str
    version: int
    name: str
    description: str
    domain: str
    tasks: tuple[str, ...]
    base_model: str
    languages: tuple[str, ...]
    licence: str
    rank: int
    folder: Path
    specification: Specification | None
    """Specification of its prompts, by which it is chosen; None if it is called by name only."""
    base_revisions: frozenset[str] = frozenset()
    """Revisions of the base model that its card and its adapter name."""
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Layers of the base model that the adapter changes, with their input and output features; empty if loaded without
    weights."""
    capability: Capability | None = None
    """Measured capability; None if it was not measured."""
    vector: ParameterVector | None = None
    """Parameter vector (PAVE); None if the provider gives none, or if loaded without weights."""

    @property
    def specified(self) -> Specification:
        """The specification of its prompts. Raises InvalidSpecification where it has none."""
        if self.specification is None:
            raise InvalidSpecification(
                f"learnware {self.id} has no specification: make one from rows of its task "
                "(`learnware-serving spec make-learnware`)"
            )
        return self.specification


def load_learnware(
    folder: Path, *, base_model: str | None = None, weights: bool = True, values: bool = True
) -> Learnware:
    """Reads and checks the learnware in `folder`, which must be for `base_model` if that is given. With `weights` False
    neither the weights nor the parameter vector are read or checked, for callers that know that the folder was checked;
    with `values` False the weights are read by their header alone.

    Raises:
        InvalidLearnware: something in the folder is wrong; the message says what, and what would be right.
    """
    try:
        card = load_card(folder / CARD_FILE)
        adapter = check_adapter(folder, weights=weights, values=values)
        if adapter.base_model != card.base_model.id:
            raise InvalidLearnware(
                f"the adapter was trained on {adapter.base_model!r}, but {CARD_FILE} says {card.base_model.id!r}"
            )
        # Checked before a capability, which would be for another base model as well: this message says more.
        check_base_model(adapter.base_model, base_model)
        types = TYPES if weights else ROUTED_TYPES
        found = specifications_of(folder, adapter.base_model, types, check=weights)
        specifications: dict[str, Any] = {kind.type: value for kind, value in found}
        specification: Specification | None = specifications.get(RKME_TEXT)
        if specification is not None:
            specification = with_asks(specification, card.examples[:MOST_ASKS] or (card.description,))
    except (InvalidLearnware, InvalidSpecification) as error:
        raise InvalidLearnware(f"learnware {folder.name}: {error}") from None
    except OSError as error:
        raise InvalidLearnware(f"learnware {folder.name} cannot be read: {error}") from None
    return Learnware(
        id=card.id,
        version=card.version,
        name=card.name,
        description=card.description,
        domain=card.domain,
        tasks=card.tasks,
        base_model=card.base_model.id,
        languages=card.languages,
        licence=card.licence,
        rank=adapter.rank,
        folder=folder,
        specification=specification,
        base_revisions=frozenset(filter(None, (card.base_model.revision, adapter.revision))),
        layers=adapter.layers,
        capability=specifications.get(CAPABILITY),
        vector=specifications.get(PAVE),
    )


def check_base_model(trained_on: str, served: str | None) -> None:
    """Raises InvalidLearnware when an adapter was trained on another base model than `served`, unless that is None."""
    if served is not None and trained_on != served:
        raise InvalidLearnware(f"it is an adapter for {trained_on!r}; the base model here is {served!r}")


def learnware_folders(root: Path) -> list[Path]:
    """Returns the sub-folders of `root` that learnwares may lie in, sorted by name; those whose names begin with a dot
    or an underscore are left out.

    Raises:
        InvalidLearnware: `root` is no folder.
    """
    if not root.is_dir():
        raise InvalidLearnware(f"the learnwares' folder {root} does not exist")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def load_learnwares(root: Path, base_model: str | None = None) -> list[Learnware]:
    """Returns every learnware in a sub-folder of `root`, sorted by id. Folders whose names begin with a dot or an
    underscore are left out.

    Raises:
        InvalidLearnware: `root` is no folder, one learnware is invalid, or one is for another base than `base_model`.
        DuplicateLearnware: two learnwares have one id.
    """
    found: dict[str, Learnware] = {}
    for folder in learnware_folders(root):
        learnware = load_learnware(folder, base_model=base_model)
        if learnware.id in found:
            raise DuplicateLearnware(
                f"two learnwares with the id {learnware.id!r}: {found[learnware.id].folder.name} and {folder.name}"
            )
        found[learnware.id] = learnware
    return [found[key] for key in sorted(found)]
