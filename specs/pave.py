"""PAVE, a parameter vector: the change that a set of texts makes to a small model that everybody shares.

Everybody takes the same *basis*: a proxy model, and on some of its layers LoRA pairs (A, B) whose A is random, frozen
and the same for all, and whose B begins at zero. The proxy is trained on the texts for a few steps in which only B
moves; the vector is the trained B of all layers in one row. Since A is shared, the cosine of two changes B₁A and B₂A is
approximated by that of B₁ and B₂ (rows of a random A are nearly orthogonal), so only B is stored and compared.
(`learnware` package 0.4.0.post1, `text/generative.py`; the match sigmoid(10 cos) is the package's, too.)

Training needs a language model and lives elsewhere (`serving.training.pave`); the type, its file and its matching need
numpy alone.

On disk: one safetensors file, for a learnware `specification/pave.safetensors`, for a task a file of its own. Its
tensors are the Bs by layer, (out features, rank) float16; the basis and the number of rows stand as JSON in its header.
Equal vectors have equal bytes.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specs import safetensors_file as single_file
from specs.errors import InvalidSpecification

PAVE = "pave"
"""Name of this type of specification, in the file and in `specs.specification_types`."""
PAVE_FILE = "pave.safetensors"
"""File name of a parameter vector in a specification's folder."""
FORMAT_VERSION = 1
"""Number of the file format that is written and read."""
MAX_BYTES = 8 << 20
"""The largest file that is read, in bytes: the default basis makes some tens of kB, and 8 MiB leave room for a larger
proxy."""
MAX_NAME = 200
"""The longest name of a proxy model, in characters."""
SHARPNESS = 10.0
"""Factor of the cosine in the match, sigmoid(10 cos), as in the `learnware` package 0.4.0.post1."""

EMBEDDED_PROXY = "SmolLM2-135M-Instruct"
"""Name of the base model that the project ships, the default proxy."""
EMBEDDED_SHA256 = "c7675a57f20d0942937a02c9b6379a391954daa91c566049afba2e292b38f512"
"""SHA-256 of the default proxy's weights, as `serving.training.pave.weights_hash` computes it."""

_MODULE = re.compile(r"[A-Za-z0-9_]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = {
    "layers": 1024,
    "first": 1023,
    "rank": 16,
    "window": 8192,
    "predicted": 8192,
    "batch": 1024,
    "steps": 100_000,
}
"""Upper bounds of the basis' whole numbers, which keep a foreign file from asking for absurd work."""
_SMALLEST = {"first": 0}
"""Lower bounds of the basis' whole numbers where they are not 1."""


@dataclass(frozen=True)
class Basis:
    """All that two vectors must have in common to be comparable: the proxy, the frozen A, and the recipe."""

    proxy: str = EMBEDDED_PROXY
    """The proxy's name, for people; vectors are comparable by the hash of its weights."""
    sha256: str = EMBEDDED_SHA256
    """SHA-256 of the proxy's weights."""
    layers: int = 6
    """Number of the model's lowest layers that make the proxy, under the model's own final norm and output matrix."""
    first: int = 0
    """Number of the first layer with LoRA pairs."""
    modules: tuple[str, ...] = ("q_proj", "v_proj", "o_proj", "down_proj")
    """Names of the linear layers with LoRA pairs."""
    rank: int = 4
    """LoRA rank."""
    seed: int = 0
    """Seed of A, and of the windows, positions and batches that training sees."""
    window: int = 32
    """Tokens of a text that are seen at once, from a random position on."""
    predicted: int = 12
    """Tokens of a window whose prediction counts in the loss, chosen at random: each costs a row of the output
    matrix."""
    batch: int = 8
    """Windows in one training step."""
    steps: int = 16
    """Training steps."""
    learning_rate: float = 1e-4
    """Learning rate of the training steps."""

    def __post_init__(self) -> None:
        """Raises InvalidSpecification when a value has another type or is out of bounds."""
        for name, bound in _LARGEST.items():
            value = getattr(self, name)
            if type(value) is not int or not _SMALLEST.get(name, 1) <= value <= bound:
                raise InvalidSpecification(
                    f"basis: {name} must be a whole number from {_SMALLEST.get(name, 1)} to {bound}, not {value!r}"
                )
        if self.first >= self.layers:
            raise InvalidSpecification(f"basis: first is {self.first}, but the proxy has {self.layers} layers")
        given: dict[str, Any] = asdict(self)  # read from a file, so of any type
        seed, rate, modules = given["seed"], given["learning_rate"], given["modules"]
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise InvalidSpecification(f"basis: seed must be a whole number of at least 0, not {seed!r}")
        if not isinstance(rate, float) or not 0 < rate <= 1:
            raise InvalidSpecification(f"basis: learning_rate must be a number from 0 to 1, not {rate!r}")
        if not isinstance(given["proxy"], str) or not 1 <= len(given["proxy"]) <= MAX_NAME:
            raise InvalidSpecification("basis: proxy must be the model's name")
        if not isinstance(given["sha256"], str) or not _SHA256.fullmatch(given["sha256"]):
            raise InvalidSpecification(f"basis: sha256 must be 64 hexadecimal digits, not {given['sha256']!r}")
        if not modules or not all(isinstance(name, str) and _MODULE.fullmatch(name) for name in modules):
            raise InvalidSpecification(f"basis: modules must name linear layers, not {modules!r}")

    @cached_property
    def key(self) -> str:
        """A hash that is equal for vectors that may be compared. The proxy's weights enter it, its name does not."""
        content = {name: value for name, value in asdict(self).items() if name != "proxy"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ParameterVector:
    """The trained B for a set of texts: by layer, (out features, rank) float32, stored as float16."""

    basis: Basis
    rows: int
    """Number of texts that it was trained on."""
    parts: Mapping[str, NDArray[np.float32]] = field(repr=False)

    @cached_property
    def tau(self) -> NDArray[np.float32]:
        """All of B in one row of unit length: (d,)."""
        flat = np.concatenate([self.parts[name].ravel() for name in sorted(self.parts)])
        return np.asarray(flat / np.linalg.norm(flat), np.float32)


def cosine(left: ParameterVector, right: ParameterVector) -> float:
    """Returns the cosine of two parameter vectors, in [-1, 1].

    Raises:
        InvalidSpecification: they have different bases, or other shapes under one basis.
    """
    check_basis(right, left.basis)
    if left.tau.shape != right.tau.shape:
        raise InvalidSpecification(f"parameter vectors of {len(left.tau)} and {len(right.tau)} numbers")
    return float(np.clip(left.tau @ right.tau, -1.0, 1.0))


def match(left: ParameterVector, right: ParameterVector) -> float:
    """Returns sigmoid(10 cos), the score of a pair of vectors in the `learnware` package 0.4.0.post1, in (0, 1)."""
    return 1 / (1 + math.exp(-SHARPNESS * cosine(left, right)))


def check_basis(vector: ParameterVector, basis: Basis) -> None:
    """Raises InvalidSpecification, which names the values that differ, when the vector was made in another basis."""
    if vector.basis.key == basis.key:
        return
    names = [one.name for one in fields(Basis) if getattr(vector.basis, one.name) != getattr(basis, one.name)]
    differ = ", ".join(f"{name} {getattr(vector.basis, name)!r} instead of {getattr(basis, name)!r}" for name in names)
    raise InvalidSpecification(f"the parameter vector was made in another basis: {differ}")


def dump_vector(vector: ParameterVector) -> bytes:
    """Returns the content of a parameter vector's file."""
    description = {"type": PAVE, "format": FORMAT_VERSION, "basis": asdict(vector.basis), "rows": vector.rows}
    tensors = {name: np.ascontiguousarray(part, np.float16) for name, part in sorted(vector.parts.items())}
    return single_file.dump(tensors, description)


def parse_vector(content: bytes) -> ParameterVector:
    """Reads and checks a file's content; parses JSON and safetensors, executes nothing.

    Raises:
        InvalidSpecification: something in it is wrong; the message says what, and what would be right.
    """
    if len(content) > MAX_BYTES:
        raise InvalidSpecification(f"a parameter vector has at most {MAX_BYTES >> 20} MiB")
    try:
        tensors, description = single_file.parse(content)
    except ValueError as error:
        raise InvalidSpecification(f"this is no parameter vector: {error}") from None
    if not isinstance(description, dict) or (description.get("type"), description.get("format")) != (
        PAVE,
        FORMAT_VERSION,
    ):
        raise InvalidSpecification(f"a parameter vector's header names type {PAVE!r}, format {FORMAT_VERSION}")
    basis = _basis(description.get("basis"))
    rows = description.get("rows")
    if type(rows) is not int or rows < 1:
        raise InvalidSpecification(f"rows must be a whole number of at least 1, not {rows!r}")
    _check_parts(tensors, basis)
    return ParameterVector(basis, rows, {name: part.astype(np.float32) for name, part in tensors.items()})


def is_vector(path: Path) -> bool:
    """Whether a file's header says that it is a parameter vector; the rest of it may still be wrong."""
    with path.open("rb") as file:
        length = min(int.from_bytes(file.read(single_file.LENGTH_BYTES), "little"), MAX_BYTES)
        return f'\\"type\\":\\"{PAVE}\\"'.encode() in file.read(length)


def read_vector(path: Path) -> ParameterVector:
    """Returns the parameter vector in the file at `path`.

    Raises:
        InvalidSpecification: the file cannot be read, or something in it is wrong.
    """
    try:
        with path.open("rb") as file:
            return parse_vector(file.read(MAX_BYTES + 1))
    except OSError as error:
        raise InvalidSpecification(f"the parameter vector {path} cannot be read: {error.strerror}") from None
    except InvalidSpecification as error:
        raise InvalidSpecification(f"{path.name}: {error}") from None


def load_vector(folder: Path) -> ParameterVector | None:
    """Returns the parameter vector in a specification's folder, or None when there is none.

    Raises:
        InvalidSpecification: the file cannot be read, or something in it is wrong.
    """
    return read_vector(folder / PAVE_FILE) if (folder / PAVE_FILE).exists() else None


def save_vector(vector: ParameterVector, folder: Path) -> None:
    """Writes the file into `folder`, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PAVE_FILE).write_bytes(dump_vector(vector))


def _basis(values: Any) -> Basis:
    names = {one.name for one in fields(Basis)}
    if not isinstance(values, dict) or set(values) != names or not isinstance(values["modules"], list):
        raise InvalidSpecification(f"basis must be an object with {', '.join(sorted(names))}")
    return Basis(**(values | {"modules": tuple(values["modules"])}))


def _check_parts(tensors: Mapping[str, NDArray[Any]], basis: Basis) -> None:
    """Checks that B of every adapted layer is there, has the basis' rank and is finite."""
    expected = {f"{layer}.{module}" for layer in range(basis.first, basis.layers) for module in basis.modules}
    if set(tensors) != expected:
        odd = sorted(set(tensors) ^ expected)[:3]
        raise InvalidSpecification(f"the tensors must be one for each adapted layer, as 0.q_proj; wrong are {odd}")
    for name, part in sorted(tensors.items()):
        if part.dtype != np.float16 or part.ndim != 2 or part.shape[1] != basis.rank or not len(part):
            raise InvalidSpecification(
                f"{name} has shape {part.shape} and type {part.dtype}; (out features, {basis.rank}) float16 is right"
            )
        if not np.isfinite(part).all():
            raise InvalidSpecification(f"{name} has NaN or infinite values")
        if part.shape != tensors[f"{basis.first}.{name.split('.', 1)[1]}"].shape:
            raise InvalidSpecification(f"{name} has another shape than the same module of layer {basis.first}")
    if not any(part.any() for part in tensors.values()):
        raise InvalidSpecification("every number is 0: no direction to compare")
