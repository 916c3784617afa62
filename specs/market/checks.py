"""Checks that a learnware can be served here: it is valid in itself, and made for this base model and this engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from specs.adapter_conversion import check_copies
from specs.base_layers import Layers, check_fits
from specs.base_names import BaseModel, check_base
from specs.errors import InvalidLearnware, InvalidSpecification
from specs.learnware import Learnware, load_learnware
from specs.pave import Basis, ParameterVector, check_basis

SLOT_RANKS = (8, 16, 32, 64, 128, 256)
"""Values of `engine.max_rank`."""


@dataclass(frozen=True)
class Requirements:
    """The conditions that a learnware must meet to be served by this market. A field left out is not checked."""

    base_model: str | None = None
    """Id of the base model."""
    revision: str | None = None
    """Revision of the base model."""
    layers: Layers | None = None
    """Layers of the base model that take adapters (`specs.base_layers`)."""
    max_rank: int | None = None
    """The largest LoRA rank that the engine's slots hold."""
    basis: Basis | None = None
    """The basis that parameter vectors must have been made in, to be comparable with each other (`specs.pave`)."""
    reserved: frozenset[str] = frozenset()
    """Ids that clients already use for something else: the base model's, the automatic names."""
    base: Path | None = None
    """Folder of the base model, with whose weights copies beside an adapter are compared."""
    aliases: tuple[str, ...] = ()
    """Other names that mean the base model (`specs.base_names`)."""

    @property
    def served(self) -> BaseModel | None:
        """The base model as far as it is known here; None when its id is not checked."""
        return None if self.base_model is None else BaseModel(self.base_model, self.aliases, self.layers)


def check_learnware(
    folder: Path, requirements: Requirements, *, weights: bool = True, values: bool = True
) -> Learnware:
    """Returns the learnware in `folder` if it is valid and fit for this market. With `values` False the checks that
    need the values of its weights are taken for passed, with `weights` False also those that need their header.

    Raises:
        InvalidLearnware: something is wrong; the message says what, and what would be right.
    """
    learnware = load_learnware(folder, base_model=requirements.served, weights=weights, values=values)
    check_fits_market(learnware, requirements)
    if weights and values and requirements.base is not None:
        check_copies(folder, requirements.base)
    return learnware


class Fitted(Protocol):
    """The facts of a learnware that decide whether a market serves it; `specs.learnware.Learnware` has them."""

    @property
    def id(self) -> str: ...
    @property
    def base_names(self) -> tuple[str, ...]: ...
    @property
    def base_revisions(self) -> frozenset[str]: ...
    @property
    def rank(self) -> int: ...
    @property
    def layers(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def depth(self) -> int | None: ...
    @property
    def vector(self) -> ParameterVector | None: ...


def check_fits_market(learnware: Fitted, requirements: Requirements) -> None:
    """Raises InvalidLearnware when a valid learnware is not one that this market serves."""
    try:
        _check(learnware, requirements)
    except (InvalidLearnware, InvalidSpecification) as error:
        raise InvalidLearnware(f"learnware {learnware.id}: {error}") from None


def slot_rank(rank: int) -> int | None:
    """Returns the smallest value of `engine.max_rank` whose slots hold this rank; None if none does."""
    return next((size for size in SLOT_RANKS if size >= rank), None)


def _check(learnware: Fitted, requirements: Requirements) -> None:
    served = requirements.served
    if served is not None:
        check_base(learnware.base_names, learnware.layers, learnware.depth, served)
    others = sorted(learnware.base_revisions - {"main", requirements.revision})
    if requirements.revision is not None and others:
        raise InvalidLearnware(
            f"it is for revision {others[0]!r} of the base model; served is {requirements.revision!r}"
        )
    if requirements.max_rank is not None and learnware.rank > requirements.max_rank:
        size = slot_rank(learnware.rank)
        way_out = (
            f"engine.max_rank must be {size} or more to serve it"
            if size is not None
            else f"engine.max_rank is {SLOT_RANKS[-1]} at most: train it with a smaller r"
        )
        raise InvalidLearnware(
            f"its rank is {learnware.rank}; the engine's slots hold up to {requirements.max_rank}: {way_out}"
        )
    if requirements.layers is not None and learnware.layers:
        check_fits(learnware.layers, requirements.layers)
    if requirements.basis is not None and learnware.vector is not None:
        check_basis(learnware.vector, requirements.basis)
    if learnware.id in requirements.reserved:
        raise InvalidLearnware(f"its id must not be {learnware.id!r}: requests for that go elsewhere")
