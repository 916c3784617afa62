"""A learnware on disk: an adapter with its card and its specifications, in one folder.

    <folder>/adapter_config.json           PEFT, as is
    <folder>/adapter_model.safetensors     PEFT, as is
    <folder>/learnware.yaml                the card (`specs.card`)
    <folder>/specification/                its specifications, by type (`specs.specification_types`)

Without the specification of its prompts a learnware answers requests that name it, and is never chosen for one.

Loading parses YAML (safe), JSON and safetensors, and executes nothing. Every fault is found here, with a message
that says what would be right, rather than by the engine under traffic.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from specs.adapter import check_adapter
from specs.base_names import BaseModel, check_base, same_name
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
    base_names: tuple[str, ...] = ()
    """Names of the base model in the words of its adapter and its card."""
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Layers of the base model that the adapter changes, with their input and output features; empty if its weights
    were not read."""
    depth: int | None = None
    """Number of decoder layers that its base model must have had (`specs.adapter.Adapter`); None if unknown."""
    capability: Capability | None = None
    """Measured capability; None if it was not measured."""
    vector: ParameterVector | None = None
    """Parameter vector (PAVE); None if the provider gives none, or if loaded without weights."""
    notes: tuple[str, ...] = ()
    """Sentences worth telling its provider; they refuse nothing."""

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
    folder: Path, *, base_model: str | BaseModel | None = None, weights: bool = True, values: bool = True
) -> Learnware:
    """Reads and checks the learnware in `folder`, which must be for `base_model` if that is given, by a name or by the
    model's facts. With `values` False only the header of its weights is read: neither their values nor the parameter
    vector are, nor is it checked whose weights were measured. With `weights` False the header is not read either, for
    callers that know that the folder was checked.

    The learnware carries the id of the base model that is served, whatever its own files call it; without `base_model`
    that of its card, and that its adapter names another is a note.

    Raises:
        InvalidLearnware: something in the folder is wrong; the message says what, and what would be right.
    """
    base = BaseModel(base_model) if isinstance(base_model, str) else base_model
    try:
        card = load_card(folder / CARD_FILE)
        adapter = check_adapter(folder, weights=weights, values=values)
        named = tuple(dict.fromkeys(name for name in (adapter.base_model, card.base_model.id) if name))
        if not weights and base is not None and base.layers is not None and not all(map(base.is_called, named)):
            adapter = check_adapter(folder, values=False)  # the name alone refuses nothing
        # Checked before a capability, which would be for another base model as well: this message says more.
        notes = adapter.notes
        if base is not None:
            notes += check_base(named, adapter.layers, adapter.depth, base)
        elif not all(same_name(named[0], name) for name in named):
            notes += (f"the adapter was trained on {named[0]!r}, but its card says {named[1]!r}",)
        served = card.base_model.id if base is None else base.id
        names = {served, *named, *(base.aliases if base else ())}
        specifications: dict[str, Any] = {}
        whole = weights and values
        for kind, value in specifications_of(folder, served, TYPES if whole else ROUTED_TYPES, check=False):
            if whole:
                kind.check(value, folder, _measured_on(value, served, names))
            specifications[kind.type] = value
        specification: Specification | None = specifications.get(RKME_TEXT)
        if specification is not None:
            specification = with_asks(specification, card.examples[:MOST_ASKS] or (card.description,))
    except (InvalidLearnware, InvalidSpecification) as error:
        raise InvalidLearnware(f"learnware {folder.name}: {error}") from None
    except OSError as error:
        raise InvalidLearnware(f"learnware {folder.name} cannot be read: {error}") from None
    learnware = Learnware(
        id=card.id,
        version=card.version,
        name=card.name,
        description=card.description,
        domain=card.domain,
        tasks=card.tasks,
        base_model=served,
        languages=card.languages,
        licence=card.licence,
        rank=adapter.rank,
        folder=folder,
        specification=specification,
        base_revisions=frozenset(filter(None, (card.base_model.revision, adapter.revision))),
        base_names=named,
        layers=adapter.layers,
        depth=adapter.depth,
        capability=specifications.get(CAPABILITY),
        vector=specifications.get(PAVE),
        notes=notes,
    )
    return learnware if base is None else served_over(learnware, base)


def served_over(learnware: Learnware, base: BaseModel) -> Learnware:
    """Returns a learnware that fits a base model as it is served there: under that model's id, and without scores that
    were measured on another one."""
    capability, notes = learnware.capability, learnware.notes
    if capability is not None and not base.is_called(capability.base_model):
        notes = (*notes, f"its measured scores are of {capability.base_model!r} and are not used over {base.id!r}")
        capability = None
    elif capability is not None:
        capability = replace(capability, base_model=base.id)
    return replace(learnware, base_model=base.id, capability=capability, notes=notes)


def _measured_on(value: Any, served: str, names: Collection[str]) -> str:
    """Returns the base model that a specification must have been measured on: the one that it names, where the
    learnware knows it by that name."""
    if isinstance(value, Capability) and any(same_name(value.base_model, name) for name in names):
        return value.base_model
    return served


def learnware_folders(root: Path) -> list[Path]:
    """Returns the sub-folders of `root` that learnwares may lie in, sorted by name; those whose names begin with a dot
    or an underscore are left out.

    Raises:
        InvalidLearnware: `root` is no folder.
    """
    if not root.is_dir():
        raise InvalidLearnware(f"the learnwares' folder {root} does not exist")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))


def load_learnwares(root: Path, base_model: str | BaseModel | None = None) -> list[Learnware]:
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
