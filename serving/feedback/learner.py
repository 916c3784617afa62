"""Makes evidence of pieces of feedback: which requests are of one task, and how good each learnware is there.

1. Pieces are grouped by their vectors, ask beside material. Where most of a group are near learnwares' own requests
   (`router.prospects`) they are of those known tasks. Another group of enough pieces is a learnt task, and keeps its
   name as it grows.
2. For each task, the gains of the learnwares get a posterior (`serving.feedback.posterior`) whose prior is what the
   choice expects of these requests without feedback. Pieces count less the older they are; a tenant's weight is
   bounded, and what lies far from all other tenants is moved towards them (`serving.feedback.robust`). Of a learnware
   and a task with fewer than `min_pieces` pieces nothing is learnt.
3. A change of an expected gain, above the base model's quality, by more than `hold_above` is held until it is approved.
   It is measured from what was expected without feedback, or was approved last: many small steps are no way around it.
   Meanwhile all changes of that task are in effect in part, so that none is larger than that and their order stays.

All of it depends on the pieces, the market and the evidence before alone; the same input gives the same evidence.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from router.prospects import known_tasks, mean_gains
from router.ranking import PRIOR_AT_LEAST_BASE, SHRINKAGE_ROWS
from router.selection import Selector
from serving.feedback.pieces import Piece
from serving.feedback.posterior import PIECE_VARIANCE, posterior
from serving.feedback.robust import Mean, robust_mean
from specs.encoding.ask_encoder import ASK_DIM
from specs.evidence import LEARNT, MOST_LEARNT, MOST_POSTERIORS, Change, Evidence, LearntTask, Posterior
from specs.rkme import ReducedSet, local_gamma, reduce_points, squared_distances

Matrix = NDArray[np.float32]

MOST_PIECES = 4000
"""The most pieces that are learnt from, the newest ones: grouping compares all pairs."""
MATERIAL_WEIGHT, ASK_WEIGHT = 0.8, 1.2
"""Lengths of a vector's two parts when requests are grouped: requests of one task share their ask."""
GROUP_DIAMETER = 1.0
"""The largest distance within a group. Of rows of 30 tasks, nine in ten are then with others of their own task, and
86 % of a group's rows are of one task; the rest are of tasks that share their wording."""
TASK_POINTS = 64
"""The most points of a learnt task."""
POINTS_SHARE = 2 / 3
"""The largest share of a learnt task's requests that it has as points, so that most are means of several."""
SAME_TASK = 0.15
"""Squared distance of two groups' means within which a learnt task keeps its name: means of halves of one task differ
by less."""
PROSPECT_ROWS = 200
"""The most requests of a task for which it is worked out what the choice expects without feedback."""
DAY_S = 86400.0


class LearningSettings(Protocol):
    """How much feedback may change; the configuration's section `feedback` is one."""

    @property
    def min_pieces(self) -> int:
        """Pieces of feedback below which nothing changes."""

    @property
    def half_life_days(self) -> float:
        """Days after which a piece counts half."""

    @property
    def tenant_share(self) -> float:
        """Most of the weight that one tenant has in what is known of a learnware."""

    @property
    def hold_above(self) -> float:
        """Change of an expected quality above which it waits for approval."""


class _Group(NamedTuple):
    """Pieces of one task; `reduced` for a learnt one."""

    name: str
    pieces: list[Piece]
    reduced: ReducedSet | None


class _Judged(NamedTuple):
    """The posteriors in effect on a task, the base model's expected quality there, and the changes that are held."""

    row: dict[str, Posterior]
    base: float
    held: list[Change]


def learn(
    pieces: Iterable[Piece],
    selector: Selector,
    settings: LearningSettings,
    now: float,
    before: Evidence | None = None,
    versions: Mapping[str, str] | None = None,
) -> Evidence:
    """Returns the evidence in these pieces, numbered after the evidence `before`.

    Args:
        pieces: feedback on requests, in any order.
        selector: the choice over the market without any evidence.
        settings: the guard rails.
        now: seconds since the epoch.
        before: the evidence so far, whose names, approvals and spans set aside are kept.
        versions: engine names of the learnwares that are served; pieces on others of their versions say nothing, and
            approvals of them end.
    """
    before = (before or Evidence(0, now, selector.encoder.fingerprint)).of_versions(versions or {})
    used = _usable(pieces, selector, before)
    groups = _grouped(used, selector, settings.min_pieces, before)
    posteriors: dict[str, dict[str, Posterior]] = {}
    tasks: list[LearntTask] = []
    held: list[Change] = []
    for group in groups:
        judged = _judge(group, selector, settings, now, before, versions or {})
        if judged is None:
            continue
        posteriors[group.name] = judged.row
        held += judged.held
        if group.reduced is not None:
            tenants = len({piece.tenant for piece in group.pieces})
            tasks.append(LearntTask(group.name, group.reduced, judged.base, len(group.pieces), tenants))
    return Evidence(
        before.number + 1,
        now,
        selector.encoder.fingerprint,
        tuple(tasks),
        posteriors,
        tuple(held),
        before.approved,
        before.set_aside,
    )


def _usable(pieces: Iterable[Piece], selector: Selector, before: Evidence) -> list[Piece]:
    """Returns the newest pieces that are not set aside, with vectors of this encoder's length, oldest first."""
    dim = selector.encoder.dim
    kept = [
        one
        for one in pieces
        if one.vector.shape == (dim,) and not any(span.after < one.time <= span.until for span in before.set_aside)
    ]
    return sorted(kept, key=lambda one: (one.time, one.tenant, one.vector.tobytes()))[-MOST_PIECES:]


def _grouped(pieces: Sequence[Piece], selector: Selector, least: int, before: Evidence) -> list[_Group]:
    """Groups the pieces by their vectors. A group of which most pieces are near a learnware's own requests is of known
    tasks, each piece of the one it is near; another one of enough pieces is a learnt task as a whole, also where a few
    of its pieces look like a known one; the largest count."""
    if len(pieces) < 2:
        return []
    vectors = _vectors(pieces)
    names = known_tasks(selector, vectors)
    numbers = fcluster(linkage(pdist(_scaled(vectors)), "complete"), GROUP_DIAMETER, "distance")
    known: dict[str, list[Piece]] = defaultdict(list)
    strange: list[NDArray[np.int64]] = []
    for number in np.unique(numbers):
        members = np.flatnonzero(numbers == number)
        near = [one for one in members if names[one] is not None]
        if len(members) >= least and 2 * len(near) < len(members):
            strange.append(members)
            continue
        for one in near:
            known[str(names[one])].append(pieces[one])
    groups = [_Group(name, some, None) for name, some in sorted(known.items())]
    taken: set[str] = set()
    for members in sorted(strange, key=len, reverse=True)[:MOST_LEARNT]:
        own = vectors[members]
        name = _name(own.mean(0), before, taken)
        taken.add(name)
        points = max(1, min(TASK_POINTS, int(len(own) * POINTS_SHARE)))
        reduced = reduce_points(own, points, local_gamma(own))
        groups.append(_Group(name, [pieces[one] for one in members], reduced))
    return groups


def _name(mean: Matrix, before: Evidence, taken: set[str]) -> str:
    """Returns the name of the learnt task whose points lie around this mean: that of the nearest one before it, or a
    new one."""
    free = [one for one in before.tasks if one.name not in taken]
    if free:
        means = np.stack([one.reduced.weights @ one.reduced.points for one in free]).astype(np.float32)
        distances = squared_distances(mean[None], means)[0]
        if distances.min() <= SAME_TASK:
            return free[int(distances.argmin())].name
    salt = 0
    while True:
        name = LEARNT + hashlib.sha256(mean.astype("<f4").tobytes() + bytes([salt])).hexdigest()[:8]
        if name not in taken and all(one.name != name for one in before.tasks):
            return name
        salt += 1


def _judge(
    group: _Group,
    selector: Selector,
    settings: LearningSettings,
    now: float,
    before: Evidence,
    versions: Mapping[str, str],
) -> _Judged | None:
    """Returns what feedback says of a group's task; None where that is nothing."""
    ids = [one.id for one in selector.learnwares]
    gains, scores = _observed(group.pieces, settings, now, set(ids), versions)
    if not gains and not scores:
        return None
    without = mean_gains(selector, _vectors(group.pieces)[:: len(group.pieces) // PROSPECT_ROWS + 1])
    prior = _prior(ids, without, {*gains, *(one for one in scores if one is not None)})
    expected = posterior(prior, gains, scores)
    approved = before.approved.get(group.name, {})
    baselines = {name: approved[name].gain if name in approved else gain for name, gain in prior.items()}
    changes = {name: max(gain, 0.0) - max(baselines[name], 0.0) for name, gain in expected.gains.items()}
    largest = max(map(abs, changes.values()))
    part = min(1.0, settings.hold_above / largest) if largest else 1.0
    row: dict[str, Posterior] = {}
    held = []
    for name, gain in expected.gains.items():
        weight = sum(one.weight for one in (gains.get(name), scores.get(name)) if one is not None)
        whole = Posterior(gain, _at_least_base(group.pieces, name, gain, versions), weight, versions.get(name, ""))
        if abs(changes[name]) > settings.hold_above:
            held.append(Change(group.name, name, baselines[name], whole))
        if weight or group.reduced is not None:
            in_effect = max(baselines[name], 0.0) + part * changes[name]
            row[name] = whole if part == 1.0 or in_effect <= 0 else whole._replace(gain=in_effect)
    return _Judged(row, expected.base, held) if row else None


def _prior(ids: Sequence[str], gains: NDArray[np.float64], observed: set[str]) -> dict[str, float]:
    """Returns what the choice expects without feedback (`gains` (n,) of the learnwares `ids`): of all learnwares with
    feedback, and of the likeliest others."""
    places = {name: number for number, name in enumerate(ids)}
    likely = [ids[one] for one in np.argsort(-gains, kind="stable")[:MOST_POSTERIORS]]
    names = [*sorted(observed), *(one for one in likely if one not in observed)]
    return {name: float(gains[places[name]]) for name in names[: max(MOST_POSTERIORS, len(observed))]}


def _observed(
    pieces: Sequence[Piece], settings: LearningSettings, now: float, known: set[str], versions: Mapping[str, str]
) -> tuple[dict[str, Mean], dict[str | None, Mean]]:
    """Returns the robust means of gains by learnware, and of scores by who answered; those of enough pieces only. The
    base model's probability of a right answer is a score of its own."""
    gains: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    scores: dict[str | None, list[tuple[float, float, str]]] = defaultdict(list)
    for piece in pieces:
        weight = 0.5 ** (max(0.0, now - piece.time) / (settings.half_life_days * DAY_S))
        for name, gain in piece.gains.items():
            if name in known and _same(gain.version, name, versions):
                gains[name].append((gain.value, weight, piece.tenant))
        if piece.base is not None:
            scores[None].append((piece.base, weight, piece.tenant))
        if piece.score is not None and _speaks(piece, known, versions):
            scores[piece.learnware].append((piece.score, weight, piece.tenant))

    def mean(some: list[tuple[float, float, str]]) -> Mean:
        values, weights, tenants = zip(*some, strict=True)
        return robust_mean(values, weights, tenants, settings.tenant_share, SHRINKAGE_ROWS, PIECE_VARIANCE)

    least = settings.min_pieces
    return (
        {name: mean(some) for name, some in gains.items() if len(some) >= least},
        {name: mean(some) for name, some in scores.items() if len(some) >= least},
    )


def _speaks(piece: Piece, known: set[str], versions: Mapping[str, str]) -> bool:
    return piece.learnware is None or (piece.learnware in known and _same(piece.version, piece.learnware, versions))


def _same(version: str, learnware: str, versions: Mapping[str, str]) -> bool:
    """Whether a piece on this version speaks for the version that is served; where either is unknown it does."""
    served = versions.get(learnware, "")
    return not version or not served or version == served


def _at_least_base(pieces: Sequence[Piece], name: str, gain: float, versions: Mapping[str, str]) -> float:
    """Returns the probability that a learnware answers at least as well as the base model: counted where right answers
    tell, else what its gain leaves."""
    better, worse = PRIOR_AT_LEAST_BASE
    told = [
        one.gains[name].at_least_base
        for one in pieces
        if name in one.gains and _same(one.gains[name].version, name, versions)
    ]
    return (sum(told) + better) / (len(told) + better + worse) if told else 1 - min(1.0, max(0.0, -gain))


def _vectors(pieces: Sequence[Piece]) -> Matrix:
    return np.stack([piece.vector for piece in pieces])


def _scaled(vectors: Matrix) -> Matrix:
    scale = np.full(vectors.shape[1], MATERIAL_WEIGHT, np.float32)
    scale[-ASK_DIM:] = ASK_WEIGHT
    return vectors * scale
