"""Pieces of feedback as the learner reads them: one request each, with its vector and what is known of its answers."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specs.canary import is_canary
from specs.off_task import LIKELIHOOD_WEIGHT

BASE = "base"
"""Name of the base model among the systems that a right answer was scored under."""
LABELS = {"right": 1.0, "wrong": 0.0}
"""Scores that the labels of feedback stand for."""
LARGEST_GAIN = 1.0
"""Bound of one piece's gain in either direction: a quality is a probability. Without it a single answer that the base
model finds next to impossible would outweigh all others."""


@dataclass(frozen=True)
class Gain:
    """A learnware beside the base model on one right answer: the gain in its probability, and whether it answers at
    least as well."""

    value: float
    at_least_base: bool
    version: str = ""


@dataclass(frozen=True)
class Piece:
    """Feedback on one request. Either `score` tells of the one that answered (`learnware`; None: the base model); or,
    where a right answer was scored under several systems, `gains` tells of every learnware among them, and `base` is
    the base model's probability of it."""

    tenant: str
    time: float
    vector: NDArray[np.float32]
    learnware: str | None = None
    version: str = ""
    score: float | None = None
    gains: Mapping[str, Gain] = field(default_factory=dict)
    base: float | None = None


def read_pieces(rows: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], encoder: str) -> list[Piece]:
    """Returns the pieces in records of decisions, each given with one of its pieces of feedback; of several on one
    request the last counts.

    Left out are requests whose vector was not kept, or was made by another encoder than that with this fingerprint;
    those that a canary answered, which is no candidate and is judged for itself; scores of requests that nobody
    answered; feedback that says nothing yet (a right answer whose likelihoods are not there); and whatever has not the
    form of a record. `measured` of a piece of feedback holds, for each system (`BASE` among them), `right`, `gold` (the
    right answer's log-likelihood in nats), `among` (its probability) and `version` (`serving.feedback.right_answers`).
    A right answer whose prompt was not kept says nothing.
    """
    found: dict[tuple[str, str], Piece] = {}
    for record, feedback in rows:
        piece = _piece(record, feedback, encoder)
        if piece is not None:
            key = (str(record.get("tenant")), str(record.get("id")))
            before = found.get(key)
            if before is None or before.time <= piece.time:
                found[key] = piece
    return list(found.values())


def _piece(record: Mapping[str, Any], feedback: Mapping[str, Any], encoder: str) -> Piece | None:
    vectors = record.get("vectors")
    if not isinstance(vectors, Mapping) or vectors.get("encoder") != encoder:
        return None
    if is_canary(str(record.get("learnware"))):
        return None
    try:
        vector = np.frombuffer(base64.b64decode(vectors["vector"], validate=True), "<f2").astype(np.float32)
        measured = feedback.get("measured") or {}
        gains = gains_of(measured)
        base = float(measured[BASE]["among"]) if gains else None
        score = LABELS.get(str(feedback.get("label")), feedback.get("score"))
        score = None if gains or score is None else min(max(float(score), 0.0), 1.0)
        time = float(feedback["time"])
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if (score is None and not gains) or not len(vector) or not np.isfinite(vector).all():
        return None
    tenant = str(feedback.get("tenant") or record.get("tenant") or "")
    learnware, version = record.get("learnware"), str(record.get("version") or "")
    if score is not None and learnware is None:
        return None  # nobody answered, so the score tells of nobody
    answered = str(learnware) if version else None  # the base model has no version
    return Piece(tenant, time, vector, answered, version, score, gains, base)


def gains_of(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Gain]:
    """Returns the gains of all systems over the base model, which must be among them if there is any.

    Where the request names the answers to choose from (`choices` of the base model is above 1), the right one's
    probability among them counts. Elsewhere, where any answer may be given, its log-likelihood counts too, as with
    probes (`router.ranking.gain`). With choices the likelihood would tell rather who uses to answer with labels: on
    rows of three measured tasks, 50 of which chose a candidate, the way from random to the oracle was 0.93 without it
    and 0.84 with it.

    Raises:
        KeyError: the base model, or a number, is missing.
    """
    if not measured:
        return {}
    base = measured[BASE]
    weight = 0.0 if int(base.get("choices") or 0) > 1 else LIKELIHOOD_WEIGHT

    def gain(one: Mapping[str, Any]) -> Gain:
        likelihood = float(one["gold"]) - float(base["gold"])
        value = float(one["among"]) - float(base["among"]) + weight * likelihood
        bounded = min(max(value, -LARGEST_GAIN), LARGEST_GAIN)
        return Gain(bounded, bool(one["right"]) >= bool(base["right"]), str(one.get("version") or ""))

    return {str(name): gain(one) for name, one in measured.items() if name != BASE}
