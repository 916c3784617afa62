"""The types of specification, behind one small interface.

    type         stands for                                                  is compared with
    rkme-text    the learnware's prompts (`specs.specification`)             a task's reduced set
    pave         the change its texts make to a shared model (`specs.pave`)  a task's parameter vector
    capability   the scores that were measured (`specs.capability`)          the probability of each task

Each is optional: without the first a learnware is called by name only, without the others less is known of it. Loading
a learnware, `spec show` and the rules of `benchmarks.market.rules` go through this interface, so that another type is
another entry of `TYPES`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from specs.adapter import adapter_hash
from specs.base_names import same_name
from specs.capability import (
    CAPABILITY,
    CAPABILITY_FILE,
    Capability,
    describe_off_task,
    load_capability,
    save_capability,
)
from specs.errors import InvalidSpecification
from specs.pave import PAVE, ParameterVector, load_vector, match, save_vector
from specs.rkme import ReducedSet, gaussian
from specs.specification import (
    DESCRIPTION_FILE,
    POINTS_FILE,
    RKME_TEXT,
    Specification,
    load_specification,
    save_specification,
)

FOLDER = "specification"
"""Name of the folder of specifications inside a learnware's folder."""

Value = TypeVar("Value")
Asked_contra = TypeVar("Asked_contra", contravariant=True)


class SpecificationType(Protocol[Value, Asked_contra]):
    """One type of specification. `Value` is a learnware's specification of this type, `Asked_contra` a task's
    counterpart that it is compared with."""

    type: str
    """Name of the type, unique among `TYPES`."""

    def load(self, folder: Path) -> Value | None:
        """Returns the specification of this type in a specification's folder, or None when there is none. Executes
        nothing.

        Raises:
            InvalidSpecification: something in it is wrong.
        """

    def save(self, value: Value, folder: Path) -> None:
        """Writes a specification of this type into a specification's folder."""

    def check(self, value: Value, learnware: Path, base_model: str) -> None:
        """Raises InvalidSpecification when the value does not belong to the learnware in this folder."""

    def score(self, value: Value, asked: Asked_contra) -> float:
        """Returns how well a learnware fits a task, from 0 to 1; larger is better."""

    def describe(self, value: Value) -> str:
        """Describes the value for people."""


class Rkme:
    """The type `rkme-text`: a reduced kernel mean embedding of texts."""

    type = RKME_TEXT

    def load(self, folder: Path) -> Specification | None:
        there = (folder / DESCRIPTION_FILE).exists() or (folder / POINTS_FILE).exists()
        return load_specification(folder) if there else None

    def save(self, value: Specification, folder: Path) -> None:
        save_specification(value, folder)

    def check(self, value: Specification, learnware: Path, base_model: str) -> None:
        """Accepts every value: nothing in it depends on the weights."""

    def score(self, value: Specification, asked: ReducedSet) -> float:
        """Returns the cosine of the two kernel means under the learnware's own kernel. MMD itself would not do: under
        so narrow a kernel the norms of the means decide it, and the most scattered learnware is nearest to
        everything."""
        own = value.whole_set
        norms = mean_product(own, own, value.gamma) * mean_product(asked, asked, value.gamma)
        return float(mean_product(own, asked, value.gamma) / norms**0.5)

    def describe(self, value: Specification) -> str:
        views = ", ".join(f"{len(view.points)} points of {view.name} ({view.rows} texts)" for view in value.views)
        answers = "" if value.answers is None else f"; answers: {value.answers}"
        return f"encoder {value.encoder_id}, gamma {value.gamma:.3f}: {views}{answers}"


def mean_product(left: ReducedSet, right: ReducedSet, gamma: float) -> float:
    """Returns the inner product of two kernel means."""
    return float(left.weights @ gaussian(left.points, right.points, gamma) @ right.weights)


class Pave:
    """The type `pave`: a parameter vector."""

    type = PAVE

    def load(self, folder: Path) -> ParameterVector | None:
        return load_vector(folder)

    def save(self, value: ParameterVector, folder: Path) -> None:
        save_vector(value, folder)

    def check(self, value: ParameterVector, learnware: Path, base_model: str) -> None:
        """Accepts every value: the proxy need not be the base model, and the market says which basis it compares in."""

    def score(self, value: ParameterVector, asked: ParameterVector) -> float:
        return match(value, asked)

    def describe(self, value: ParameterVector) -> str:
        basis = value.basis
        layers = f"layers {basis.first} to {basis.layers - 1} of {basis.proxy}, {basis.sha256[:12]}"
        return f"{len(value.tau):,} numbers of {layers}, from {value.rows} texts"


class Measured:
    """The type `capability`: measured scores."""

    type = CAPABILITY

    def load(self, folder: Path) -> Capability | None:
        return load_capability(folder)

    def save(self, value: Capability, folder: Path) -> None:
        save_capability(value, folder)

    def check(self, value: Capability, learnware: Path, base_model: str) -> None:
        if not same_name(value.base_model, base_model) or value.adapter_sha256 != adapter_hash(learnware):
            raise InvalidSpecification(
                f"{FOLDER}/{CAPABILITY_FILE} was measured with other weights or another base model; "
                "measure it again (`learnware-serving matrix --probes --write-capability` on rows of tasks, "
                "`learnware-serving measure` off them) or remove it"
            )

    def score(self, value: Capability, asked: Mapping[str, float]) -> float:
        """Returns the mean probability of a right answer over those of these tasks that were measured, each weighted by
        its probability; 0 where none was measured."""
        known = {task: weight for task, weight in asked.items() if task in value.probes and weight > 0}
        total = sum(known.values())
        return sum(weight * value.probes[task].probability for task, weight in known.items()) / total if total else 0.0

    def describe(self, value: Capability) -> str:
        rows = sum(one.rows for one in value.probes.values())
        return "; ".join([f"measured on {len(value.probes)} tasks, {rows} rows", *describe_off_task(value)])


RKME: SpecificationType[Specification, ReducedSet] = Rkme()
"""The type `rkme-text`."""
PARAMETER_VECTOR: SpecificationType[ParameterVector, ParameterVector] = Pave()
"""The type `pave`."""
MEASURED: SpecificationType[Capability, Mapping[str, float]] = Measured()
"""The type `capability`."""
TYPES: tuple[SpecificationType[Any, Any], ...] = (RKME, PARAMETER_VECTOR, MEASURED)
"""All types of specification, `rkme-text` first."""
ROUTED_TYPES: tuple[SpecificationType[Any, Any], ...] = (RKME, MEASURED)
"""Types that the router ranks learnwares by."""


def specifications_of(
    learnware: Path, base_model: str, types: Sequence[SpecificationType[Any, Any]] = TYPES, *, check: bool = True
) -> Iterator[tuple[SpecificationType[Any, Any], Any]]:
    """Yields every specification of these types in a learnware's folder, with its type; with `check` also checks that
    it belongs there.

    Raises:
        InvalidSpecification: something in one of them is wrong.
    """
    for kind in types:
        value = kind.load(learnware / FOLDER)
        if value is not None:
            if check:
                kind.check(value, learnware, base_model)
            yield kind, value
