"""Evidence: what feedback says of learnwares, in the form in which the choice uses it; immutable.

Beside what learnwares' makers say (specifications) and what probes measured (`specs.capability`), a stack that learns
knows what its own users told it of answers (`POST /v1/feedback`). The learner (`serving.feedback.learner`) turns that
into evidence of two kinds:

- *posteriors*: the expected gain of a learnware over the base model on a task, after feedback;
- *learnt tasks*: groups of requests that are like no learnware's own requests, each a reduced set of their vectors, so
  that the task model (`router.task_model`) can tell further such requests.

A change of an expected gain that is larger than an operator allows is *held*: it stands here, without effect, until it
is approved. Evidence is a file, made anew as feedback comes; the last ones are kept (`specs.evidence_store`), and going
back to one of them also sets aside the feedback that came after it.

On disk: safetensors with the points of the learnt tasks, and a JSON description of everything else in its header. It
holds no text; points tell the topic of requests, as those of a specification do.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs import safetensors_file
from specs.errors import InvalidInput
from specs.rkme import ReducedSet

FORMAT_VERSION = 1
"""Number of the file format that is written and read."""
MOST_LEARNT = 32
"""The most learnt tasks: each is a class of the task model, whose fit and whose time for a request grow with them."""
MOST_POSTERIORS = 64
"""Learnwares with a posterior on one task: all those with feedback, and of the others the likeliest, up to this number
together."""
MAX_BYTES = 16 << 20
"""The largest file that is read, in bytes; 32 learnt tasks of 64 points of 920 half-precision numbers take 3.8 MB."""
LEARNT = "learnt:"
"""Beginning of the names of learnt tasks, which no task of a learnware has."""
_NAME = re.compile(rf"{LEARNT}[a-z0-9]{{1,32}}")


class Posterior(NamedTuple):
    """A learnware's expected gain over the base model on a task, in probability; the probability that it answers at
    least as well as the base model; the effective number of pieces of feedback behind it (0: what was expected
    without); and the engine name of the version that it speaks for (empty: of any)."""

    gain: float
    at_least_base: float
    pieces: float = 0.0
    version: str = ""


class Change(NamedTuple):
    """A change of a learnware's expected gain on a task that waits for approval. `before` is the gain that was approved
    last, and where none was, the one expected without feedback; meanwhile a gain between the two may be in effect.
    `after` is what feedback says."""

    task: str
    learnware: str
    before: float
    after: Posterior


class Span(NamedTuple):
    """Times (seconds since the epoch) between which feedback is set aside: later than `after`, up to `until`."""

    after: float
    until: float


@dataclass(frozen=True)
class LearntTask:
    """Requests that are like no learnware's own: points that stand for their vectors, the base model's expected
    quality on them, and from how many pieces of feedback and how many tenants that is known."""

    name: str
    reduced: ReducedSet
    base: float
    pieces: int
    tenants: int


@dataclass(frozen=True)
class Evidence:
    """The content of feedback, by task: of the learnwares' tasks (the classes of the task model) and of learnt ones.

    `encoder` is the fingerprint of the encoder that made the points. `approved` holds what an operator has approved,
    from whose gains later changes are measured.
    """

    number: int
    made: float
    encoder: str
    tasks: tuple[LearntTask, ...] = ()
    posteriors: Mapping[str, Mapping[str, Posterior]] = field(default_factory=dict)
    held: tuple[Change, ...] = ()
    approved: Mapping[str, Mapping[str, Posterior]] = field(default_factory=dict)
    set_aside: tuple[Span, ...] = ()

    def of_versions(self, versions: Mapping[str, str]) -> "Evidence":
        """Returns the evidence that speaks for these versions: engine names by learnware. A new version of a learnware
        starts from its own probes, so posteriors and approvals of other versions are left out."""
        return replace(
            self,
            posteriors=_of_versions(self.posteriors, versions),
            approved=_of_versions(self.approved, versions),
        )

    def approving(self, changes: Iterable[Change], number: int, made: float) -> "Evidence":
        """Returns the evidence in which these held changes are in effect. Changes that are not held are refused.

        Raises:
            InvalidInput: one of them is not held here.
        """
        wanted = list(changes)
        missing = [one for one in wanted if one not in self.held]
        if missing:
            raise InvalidInput(f"no change of {missing[0].learnware} on {missing[0].task} is held")
        posteriors = {task: dict(row) for task, row in self.posteriors.items()}
        approved = {task: dict(row) for task, row in self.approved.items()}
        for one in wanted:
            posteriors.setdefault(one.task, {})[one.learnware] = one.after
            approved.setdefault(one.task, {})[one.learnware] = one.after
        held = tuple(one for one in self.held if one not in wanted)
        return replace(self, number=number, made=made, posteriors=posteriors, approved=approved, held=held)


def _of_versions(
    rows: Mapping[str, Mapping[str, Posterior]], versions: Mapping[str, str]
) -> dict[str, dict[str, Posterior]]:
    """Returns the posteriors that speak for these versions; where either is unknown they do."""
    return {
        task: {name: one for name, one in row.items() if not one.version or versions.get(name, "") in ("", one.version)}
        for task, row in rows.items()
    }


def dump(evidence: Evidence) -> bytes:
    """Returns the content of the file for this evidence; equal evidence gives equal bytes."""
    tensors: dict[str, NDArray[Any]] = {}
    for task in evidence.tasks:
        tensors[f"{task.name}.points"] = task.reduced.points.astype(np.float16)
        tensors[f"{task.name}.weights"] = task.reduced.weights.astype(np.float32)
    description = {
        "format": FORMAT_VERSION,
        "number": evidence.number,
        "made": evidence.made,
        "encoder": evidence.encoder,
        "tasks": [
            {"name": one.name, "base": one.base, "pieces": one.pieces, "tenants": one.tenants} for one in evidence.tasks
        ],
        "posteriors": _lists(evidence.posteriors),
        "held": [[one.task, one.learnware, one.before, list(one.after)] for one in evidence.held],
        "approved": _lists(evidence.approved),
        "set_aside": [list(span) for span in evidence.set_aside],
    }
    # A file without any tensor is none of the library's: one number stands for "no points".
    return safetensors_file.dump(tensors or {"none": np.zeros(1, np.float16)}, description)


def parse(content: bytes) -> Evidence:
    """Returns the evidence in a file's content; executes nothing.

    Raises:
        InvalidInput: it is too large, damaged, of another format, or one of its values is impossible.
    """
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"a file of evidence has at most {MAX_BYTES} bytes, not {len(content)}")
    try:
        tensors, values = safetensors_file.parse(content)
        if values["format"] != FORMAT_VERSION:
            raise InvalidInput(f"evidence of format {values['format']!r}: this version reads {FORMAT_VERSION}")
        tasks = tuple(_learnt(one, tensors) for one in values["tasks"])
        found = Evidence(
            int(values["number"]),
            _number(values["made"]),
            str(values["encoder"]),
            tasks,
            _rows(values["posteriors"]),
            tuple(Change(str(t), str(n), _number(b), _posterior(a)) for t, n, b, a in values["held"]),
            _rows(values["approved"]),
            tuple(Span(_number(a), _number(u)) for a, u in values["set_aside"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"this is no whole file of evidence: {error!r}") from None
    if len(tasks) > MOST_LEARNT or len({one.name for one in tasks}) < len(tasks):
        raise InvalidInput(f"evidence has at most {MOST_LEARNT} learnt tasks, each with a name of its own")
    return found


def _learnt(values: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> LearntTask:
    name = str(values["name"])
    points, weights = tensors[f"{name}.points"], tensors[f"{name}.weights"].astype(np.float64)
    whole = points.ndim == 2 and weights.shape == (len(points),) and len(points) > 0
    if not _NAME.fullmatch(name) or not whole or not np.isfinite(points).all():
        raise ValueError(f"the learnt task {name!r} needs a name {LEARNT}…, and finite points with a weight each")
    if not (weights >= 0).all() or not 0 < weights.sum() < math.inf:
        raise ValueError(f"the weights of the learnt task {name!r} must be at least 0, and not all 0")
    base = _number(values["base"])
    reduced = ReducedSet(points.astype(np.float32), weights / weights.sum())
    return LearntTask(name, reduced, base, int(values["pieces"]), int(values["tenants"]))


def _lists(rows: Mapping[str, Mapping[str, Posterior]]) -> dict[str, dict[str, list[Any]]]:
    return {task: {name: list(one) for name, one in row.items()} for task, row in rows.items()}


def _rows(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Posterior]]:
    return {str(task): {str(name): _posterior(one) for name, one in row.items()} for task, row in values.items()}


def _posterior(values: Iterable[Any]) -> Posterior:
    gain, at_least_base, pieces, version = values
    return Posterior(_number(gain), _number(at_least_base), _number(pieces), str(version))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number
