"""Checks that a learnware can be served here: it is valid in itself, and made for this base model and this engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from specs.base_layers import Layers, check_fits
from specs.errors import InvalidLearnware, InvalidSpecification
from specs.learnware import Learnware, check_base_model, load_learnware
from specs.pave import Basis, ParameterVector, check_basis


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


def check_learnware(folder: Path, requirements: Requirements, *, weights: bool = True) -> Learnware:
    """Returns the learnware in `folder` if it is valid and fit for this market. With `weights` False the checks that
    need its weights are taken for passed.

    Raises:
        InvalidLearnware: something is wrong; the message says what, and what would be right.
    """
    learnware = load_learnware(folder, base_model=requirements.base_model, weights=weights)
    check_fits_market(learnware, requirements)
    return learnware


class Fitted(Protocol):
    """The facts of a learnware that decide whether a market serves it; `specs.learnware.Learnware` has them."""

    @property
    def id(self) -> str: ...
    @property
    def base_model(self) -> str: ...
    @property
    def base_revisions(self) -> frozenset[str]: ...
    @property
    def rank(self) -> int: ...
    @property
    def layers(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def vector(self) -> ParameterVector | None: ...


def check_fits_market(learnware: Fitted, requirements: Requirements) -> None:
    """Raises InvalidLearnware when a valid learnware is not one that this market serves."""
    try:
        _check(learnware, requirements)
    except (InvalidLearnware, InvalidSpecification) as error:
        raise InvalidLearnware(f"learnware {learnware.id}: {error}") from None


def _check(learnware: Fitted, requirements: Requirements) -> None:
    check_base_model(learnware.base_model, requirements.base_model)
    others = sorted(learnware.base_revisions - {"main", requirements.revision})
    if requirements.revision is not None and others:
        raise InvalidLearnware(
            f"it is for revision {others[0]!r} of the base model; served is {requirements.revision!r}"
        )
    if requirements.max_rank is not None and learnware.rank > requirements.max_rank:
        raise InvalidLearnware(f"its rank is {learnware.rank}; the engine's slots hold up to {requirements.max_rank}")
    if requirements.layers is not None and learnware.layers:
        check_fits(learnware.layers, requirements.layers)
    if requirements.basis is not None and learnware.vector is not None:
        check_basis(learnware.vector, requirements.basis)
    if learnware.id in requirements.reserved:
        raise InvalidLearnware(f"its id must not be {learnware.id!r}: requests for that go elsewhere")
