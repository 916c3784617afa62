"""The `learnware` package's RKMETextSpecification: its JSON, and a specification of ours in its form and back."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.encoding.encoder import load_encoder
from specs.errors import InvalidSpecification
from specs.specification import Specification, View

RKME_TEXT_CLASS = "RKMETextSpecification"
MAX_POINTS = 10_000
WEIGHT_SLACK = 1e-6
"""The package's solver leaves weights this far below 0, or their sum this far from 1."""


class RKMEText(NamedTuple):
    """The package's RKMETextSpecification: points (k, d), weights (k,), γ, the number of rows, the languages that it
    detected, and our encoder's id and SHA-256 if the points lie in its space."""

    points: NDArray[np.float64]
    weights: NDArray[np.float64]
    gamma: float
    rows: int
    languages: tuple[str, ...]
    encoder: tuple[str, str] | None


def dump_rkme_text(rkme: RKMEText) -> bytes:
    """As `RKMETextSpecification.save` writes it, with the encoder where it is ours."""
    content: dict[str, Any] = {
        "z": rkme.points.tolist(),
        "beta": rkme.weights.tolist(),
        "gamma": rkme.gamma,
        "num_points": rkme.rows,
        "language": list(rkme.languages),
        "type": RKME_TEXT_CLASS,
    }
    if rkme.encoder is not None:
        content["encoder"] = {"id": rkme.encoder[0], "sha256": rkme.encoder[1]}
    return json.dumps(content, separators=(",", ":")).encode()


def load_rkme_text(content: bytes) -> RKMEText:
    """Reads and checks what `RKMETextSpecification.save` wrote.

    Raises:
        InvalidSpecification: what is wrong with it.
    """
    try:
        values = json.loads(content)
        points, weights = np.array(values["z"], np.float64), np.array(values["beta"], np.float64)
        gamma, rows, kind = float(values["gamma"]), int(values["num_points"]), values["type"]
        languages = tuple(str(language) for language in values.get("language", ()))
        named = values.get("encoder")
        encoder = None if named is None else (str(named["id"]), str(named["sha256"]))
    except (ValueError, KeyError, TypeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidSpecification(f"it is no {RKME_TEXT_CLASS} in JSON: {error!r}") from None
    if kind != RKME_TEXT_CLASS:
        raise InvalidSpecification(f"its type is {kind!r}; {RKME_TEXT_CLASS} is understood")
    if points.ndim != 2 or weights.shape != points.shape[:1] or not 1 <= len(points) <= MAX_POINTS:
        raise InvalidSpecification(
            f"z has shape {points.shape} and beta {weights.shape}; they must be (k, d) and (k,), k up to {MAX_POINTS:,}"
        )
    if not (np.isfinite(points).all() and np.isfinite(weights).all() and np.isfinite(gamma) and gamma > 0 and rows > 0):
        raise InvalidSpecification("z, beta, gamma and num_points must be finite, the last two above 0")
    if weights.min() < -WEIGHT_SLACK or abs(weights.sum() - 1) > 1e-3:
        raise InvalidSpecification(f"beta must be at least 0 and sum to 1, not {weights.sum():.4f}")
    return RKMEText(points, np.maximum(weights, 0), gamma, rows, languages, encoder)


def as_rkme_text(specification: Specification, languages: Sequence[str]) -> RKMEText:
    """A specification of ours in the package's form: all views as one weighted set."""
    reduced = specification.whole_set
    return RKMEText(
        reduced.points.astype(np.float64),
        reduced.weights,
        specification.gamma,
        sum(view.rows for view in specification.views),
        tuple(languages),
        (specification.encoder_id, specification.encoder_fingerprint),
    )


def as_specification(rkme: RKMEText) -> Specification:
    """The reverse, as one view.

    Raises:
        InvalidSpecification: its points do not lie in the space of an encoder that is known here.
    """
    if rkme.encoder is None:
        raise InvalidSpecification("its points lie in the space of the package's own encoder")
    encoder = load_encoder(rkme.encoder[0])
    if rkme.encoder[1] != encoder.fingerprint or rkme.points.shape[1] != encoder.dim:
        raise InvalidSpecification(f"it was made with other data of encoder {encoder.id!r}")
    view = View("whole", rkme.rows, rkme.points.astype(np.float32), rkme.weights / rkme.weights.sum())
    return Specification(encoder.id, encoder.fingerprint, rkme.gamma, (view,))
