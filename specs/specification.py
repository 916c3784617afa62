"""A learnware's specification: reduced sets that describe the prompts it is for, on disk as JSON and safetensors.

A specification has up to three *views* of the same learnware, each a reduced set of its own (`specs.rkme`):

    whole      prompts as the learnware was trained on them
    examples   requests in the provider's own words, from the card: the same ask in other wordings
    asked      the asks of these examples put to the rows' material (`specs.compositions`)

and, beside them, points of *declined* requests, which ask for something else about the same material.

A point is a prompt's vector: its ask beside its material (`specs.encoding.encoder.PromptEncoder`). Beside the points a
specification describes the answers (`specs.answers.description`): labels and which, letters, numbers, spans or free
text, and how long they are.

On disk: `specification.json` (type, encoder id and fingerprint, γ, views with rows and points, answers) and
`points.safetensors` (`points` (k, d) float16, `weights` (k,) float32, which sum to 1 over all views together, and where
there are some `declined` (k, d) float16). float16 halves the size; its rounding (2⁻¹¹) is far below the distance
between points.

Format 1 knew no asks: its points are vectors of whole prompts under the static encoder alone, with a third view *bare*
of prompts without their instruction. It is still read; `with_asks` gives it the asks of the card.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors, save as save_safetensors

from specs.answers.description import Answers, answers_from, answers_to_dict
from specs.encoding.ask import split_prompt
from specs.encoding.encoder import PROMPT_ENCODER, STATIC_ENCODER, Encoder, load_encoder, load_prompt_encoder
from specs.errors import InvalidSpecification
from specs.rkme import ReducedSet, local_gamma, reduce_points
from specs.untrusted import read_json

RKME_TEXT = "rkme-text"
"""Name of this type of specification, in the file and in `specs.specification_types`."""
FORMAT_VERSION = 2
"""Number of the file format that `make_specification` makes."""
VIEWS: Mapping[int, tuple[str, ...]] = {1: ("whole", "bare", "examples"), 2: ("whole", "examples", "asked")}
"""Names of the views in each format that is read."""
ENCODERS: Mapping[int, str] = {1: STATIC_ENCODER, 2: PROMPT_ENCODER}
"""Id of the encoder that a format's points are made with."""
DESCRIPTION_FILE = "specification.json"
"""File name of the description in a specification's folder."""
POINTS_FILE = "points.safetensors"
"""File name of the points and weights in a specification's folder."""

POINTS_PER_VIEW = 50
"""The most reduced points of a view. 25 to 80 differ by less than a point of task accuracy; 50 of 920 float16 numbers
are 92 kB."""
POINTS_SHARE = 2 / 3
"""The largest share of a view's rows that it has as points, as in the `learnware` package 0.4.0.post1. It makes most
points means of several rows; it is no promise of privacy (a point may still be one row's vector). Examples are public
(they stand in the card) and are kept whole."""
MAX_POINTS = 2000
"""The most points, and the most declined points, of a file that is read."""
MAX_BYTES = 4 << 20
"""The largest points file that is read, in bytes; 2,000 float16 points of 920 numbers take 3.7 MB."""


@dataclass(frozen=True)
class View:
    """One reduced set: its name, the number of rows that it stands for, its points (k, d) and weights (k,), which sum
    to the view's share."""

    name: str
    rows: int
    points: NDArray[np.float32]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Specification:
    """The reduced sets of one learnware under one encoder, with the kernel's γ."""

    encoder_id: str
    encoder_fingerprint: str
    gamma: float
    views: tuple[View, ...]
    answers: Answers | None = None
    """Description of the answers; None where the maker gave none (format 1, or rows without answers)."""
    declined: NDArray[np.float32] | None = None
    """Points (k, d) of declined requests; None where there are none."""

    @property
    def dim(self) -> int:
        """Length of a point."""
        return int(self.views[0].points.shape[1])

    @property
    def whole_set(self) -> ReducedSet:
        """All views as one weighted set, the form that squared MMD compares."""
        return ReducedSet(
            np.concatenate([view.points for view in self.views]), np.concatenate([view.weights for view in self.views])
        )


def make_specification(
    texts: Mapping[str, Sequence[str]],
    encoder: Encoder,
    points: int = POINTS_PER_VIEW,
    answers: Answers | None = None,
    declined: Sequence[str] = (),
) -> Specification:
    """Reduces each view's texts; views count equally, whatever their numbers of rows.

    Args:
        texts: each view's texts by its name (see the module's docstring); empty views are left out.
        encoder: makes the points.
        points: the most points of a view other than `examples`.
        answers: description of the rows' answers.
        declined: requests that ask for something else.

    Raises:
        InvalidSpecification: a view's name is unknown, or there is no text at all.
    """
    names = VIEWS[FORMAT_VERSION]
    unknown = sorted(set(texts) - set(names))
    if unknown:
        raise InvalidSpecification(f"unknown views {unknown}; there are {list(names)}")
    present = [(name, encoder.encode(texts[name])) for name in names if texts.get(name)]
    if not present:
        raise InvalidSpecification("a specification needs at least one text")
    gamma = local_gamma(np.concatenate([vectors for _, vectors in present]))
    views = []
    for name, vectors in present:
        size = len(vectors) if name == "examples" else max(1, min(points, int(POINTS_SHARE * len(vectors))))
        reduced = reduce_points(vectors, size, gamma)
        kept = reduced.weights > 1e-6
        weights = reduced.weights[kept] / reduced.weights[kept].sum() / len(present)
        views.append(View(name, len(vectors), reduced.points[kept], weights))
    others = None
    if declined:
        vectors = encoder.encode(declined)
        others = reduce_points(vectors, max(1, min(points, int(POINTS_SHARE * len(vectors)))), gamma).points
    return Specification(encoder.id, encoder.fingerprint, gamma, tuple(views), answers, others)


def with_asks(specification: Specification, requests: Sequence[str]) -> Specification:
    """Turns a specification of format 1 into one of format 2: each of its points (the material) is joined with the ask
    of one of these requests, in turn. One of format 2 is returned as it is.

    `requests` come from the card: its examples, or else its description, which names the ask in most cards.

    Raises:
        InvalidSpecification: there is no request.
    """
    if specification.encoder_id == PROMPT_ENCODER:
        return specification
    if not requests:
        raise InvalidSpecification("a specification of format 1 needs examples or a description to tell what is asked")
    encoder = load_prompt_encoder()
    asks = encoder.encode_asks([split_prompt(request).ask for request in requests])
    views = tuple(
        replace(
            view,
            name="asked" if view.name == "bare" else view.name,
            points=encoder.join(view.points, asks[np.arange(len(view.points)) % len(asks)]),
        )
        for view in specification.views
    )
    return replace(specification, encoder_id=encoder.id, encoder_fingerprint=encoder.fingerprint, views=views)


def save_specification(specification: Specification, folder: Path) -> None:
    """Writes the two files into `folder`, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    reduced = specification.whole_set
    description: dict[str, Any] = {
        "type": RKME_TEXT,
        "format": next(version for version, encoder in ENCODERS.items() if encoder == specification.encoder_id),
        "encoder": {"id": specification.encoder_id, "sha256": specification.encoder_fingerprint},
        "dim": specification.dim,
        "gamma": specification.gamma,
        "views": [{"name": view.name, "rows": view.rows, "points": len(view.points)} for view in specification.views],
    }
    if specification.answers is not None:
        description["answers"] = answers_to_dict(specification.answers)
    tensors: dict[str, NDArray[Any]] = {
        "points": reduced.points.astype(np.float16),
        "weights": reduced.weights.astype(np.float32),
    }
    if specification.declined is not None:
        tensors["declined"] = specification.declined.astype(np.float16)
    (folder / POINTS_FILE).write_bytes(save_safetensors(tensors))
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_specification(folder: Path) -> Specification:
    """Reads and checks a specification; parses JSON and safetensors, executes nothing.

    Raises:
        InvalidSpecification: something in it is wrong; the message says what, and what would be right.
    """
    description = _read_description(folder / DESCRIPTION_FILE)
    points, weights, declined = _read_points(folder / POINTS_FILE)
    encoder = _field(description, "encoder", dict)
    encoder_id = _field(encoder, "id", str, "encoder.")
    version = description["format"]
    if encoder_id != ENCODERS[version]:
        raise InvalidSpecification(
            f"made with encoder {encoder_id!r}; format {version} is read with {ENCODERS[version]!r}"
        )
    known = load_encoder(encoder_id)
    if _field(encoder, "sha256", str, "encoder.") != known.fingerprint:
        raise InvalidSpecification(
            f"made with other data of encoder {encoder_id!r}: its sha256 should begin with {known.fingerprint[:12]}"
        )
    dim = _field(description, "dim", int)
    if dim != known.dim or points.ndim != 2 or points.shape[1] != dim:
        raise InvalidSpecification(
            f"points have shape {points.shape} and dim is {dim}; the encoder makes (k, {known.dim})"
        )
    views = _split_views(_field(description, "views", list), VIEWS[version], points, weights)
    gamma = _field(description, "gamma", float)
    if not (np.isfinite(gamma) and gamma > 0):
        raise InvalidSpecification(f"gamma is {gamma}; it must be a positive number")
    answers = description.get("answers")
    return Specification(
        encoder_id, known.fingerprint, gamma, views, None if answers is None else answers_from(answers), declined
    )


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = read_json(path)
    except FileNotFoundError:
        raise InvalidSpecification(f"{path.name} is missing") from None
    except ValueError as error:
        raise InvalidSpecification(f"{path.name} is not JSON: {error}") from None
    if not isinstance(description, dict):
        raise InvalidSpecification(f"{path.name} must hold an object")
    version = description.get("format")
    if description.get("type") != RKME_TEXT or type(version) is not int or version not in VIEWS:
        raise InvalidSpecification(
            f"type {description.get('type')!r}, format {version!r}: "
            f"this version reads {RKME_TEXT!r}, format {' or '.join(map(str, VIEWS))}"
        )
    return description


def _read_points(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float32] | None]:
    """Returns points (k, d), weights (k,) that sum to 1, and declined points or None."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidSpecification(f"{path.name} is larger than {MAX_BYTES >> 20} MiB")
        tensors = load_safetensors(path.read_bytes())
    except FileNotFoundError:
        raise InvalidSpecification(f"{path.name} is missing") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise InvalidSpecification(f"{path.name} is not a whole safetensors file: {error}") from None
    if set(tensors) - {"declined"} != {"points", "weights"}:
        raise InvalidSpecification(f"{path.name} holds {sorted(tensors)}; it must hold points and weights")
    declined = tensors.get("declined")
    if declined is not None and (
        declined.shape[1:] != tensors["points"].shape[1:]
        or not 1 <= len(declined) <= MAX_POINTS
        or not np.isfinite(declined.astype(np.float32)).all()
    ):
        raise InvalidSpecification(
            f"{path.name}: declined must hold 1 to {MAX_POINTS} finite points of the same length as points, "
            f"not {declined.shape}"
        )
    points, weights = tensors["points"].astype(np.float32), tensors["weights"].astype(np.float64)
    if not (np.isfinite(points).all() and np.isfinite(weights).all()):
        raise InvalidSpecification(f"{path.name} has NaN or infinite values")
    if weights.ndim != 1 or not points.ndim or len(weights) != len(points) or not 1 <= len(points) <= MAX_POINTS:
        raise InvalidSpecification(
            f"weights of shape {weights.shape} for points of shape {points.shape}; "
            f"there must be one weight a point, and 1 to {MAX_POINTS} points"
        )
    if weights.min() < 0 or abs(float(weights.sum()) - 1) > 1e-3:
        raise InvalidSpecification(f"weights must be at least 0 and sum to 1, not {weights.sum():.4f}")
    return points, weights / weights.sum(), None if declined is None else declined.astype(np.float32)


def _split_views(
    listed: Sequence[Any], names: Sequence[str], points: NDArray[np.float32], weights: NDArray[np.float64]
) -> tuple[View, ...]:
    views: list[View] = []
    start = 0
    for entry in listed:
        if not isinstance(entry, dict):
            raise InvalidSpecification("each of views must be an object with name, rows and points")
        name = _field(entry, "name", str, "views.")
        end = start + _field(entry, "points", int, "views.")
        if name not in names or name in {view.name for view in views} or end <= start:
            raise InvalidSpecification(f"views must be distinct ones of {list(names)} with at least one point each")
        views.append(View(name, _field(entry, "rows", int, "views."), points[start:end], weights[start:end]))
        start = end
    if start != len(points) or not views:
        raise InvalidSpecification(f"views count {start} points, the file has {len(points)}")
    return tuple(views)


def _field(values: Mapping[str, Any], name: str, kind: type, prefix: str = "") -> Any:
    value = values.get(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidSpecification(f"{DESCRIPTION_FILE}: {prefix}{name} must be of type {kind.__name__}, not {value!r}")
    return value
