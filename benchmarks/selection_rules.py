"""Other rules that choose from a market of learnwares, to stand beside the project's own in one table.

A rule is fitted once to what is on offer (`Offer`: learnwares with their specifications, and their scores on probe
rows) and is then asked for one learnware for a task, of which it sees some train rows (`TaskRows`). No rule sees a test
row or a score on one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.scores import TaskScores
from router.selection import Selector
from specs.learnware import Learnware
from specs.rkme import gaussian, local_gamma, reduce_points

NEIGHBOURS = 10
PACKAGE_GAMMA = 0.1
PACKAGE_POINTS = 100

Vectors = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Offer:
    """What a rule may look at before it is asked."""

    learnwares: Sequence[Learnware]
    probes: Mapping[str, TaskScores]
    """Scores on probe rows, by task."""
    selector: Selector
    """The router's snapshot of the same learnwares, for rules that use its metric."""


class TaskRows(NamedTuple):
    """A task as its owner knows it: a name for what was computed from its rows before, and the rows' vectors (n, d)."""

    task: str
    vectors: Vectors


TaskRule = Callable[[TaskRows], str]
"""A task's rows → a learnware's id."""


def nearest_centroid(offer: Offer) -> TaskRule:
    """The learnware whose prompts' mean has the largest cosine with the task's (ARIADNE)."""
    means = np.stack([_view_means(one)[0] for one in offer.learnwares])
    centroids = means / np.linalg.norm(means, axis=1, keepdims=True)
    return lambda rows: offer.learnwares[int((centroids @ rows.vectors.mean(0)).argmax())].id


def nearest_mean(offer: Offer) -> TaskRule:
    """The learnware with the nearest mean of a view, in the metric that is fitted to all specifications."""
    metric = offer.selector.metric
    views = [_view_means(one) for one in offer.learnwares]
    means, owners = metric.apply(np.concatenate(views)), np.repeat(np.arange(len(views)), [len(one) for one in views])

    def choose(rows: TaskRows) -> str:
        squares = ((means - metric.apply(rows.vectors.mean(0))) ** 2).sum(1, dtype=np.float64)
        return offer.learnwares[int(owners[squares.argmin()])].id

    return choose


def nearest_prompts(offer: Offer) -> TaskRule:
    """kNN: each row votes for the owners of its nearest points among all learnwares' reduced sets."""
    sets = [one.specification.views[0].points for one in offer.learnwares]
    points, owners = np.concatenate(sets), np.repeat(np.arange(len(sets)), [len(one) for one in sets])

    def choose(rows: TaskRows) -> str:
        votes = np.zeros(len(sets))
        for row in rows.vectors @ points.T:
            votes += np.bincount(owners[np.argpartition(-row, NEIGHBOURS)[:NEIGHBOURS]], minlength=len(sets))
        return offer.learnwares[int(votes.argmax())].id

    return choose


def package_rkme(offer: Offer) -> TaskRule:
    """The `learnware` package's rule: least squared MMD of reduced sets, γ = 0.1."""
    return lambda rows: _by_mmd(offer, rows, PACKAGE_GAMMA)


def local_rkme(offer: Offer) -> TaskRule:
    """The same with γ from the task's rows (`specs.rkme.local_gamma`)."""
    return lambda rows: _by_mmd(offer, rows, local_gamma(rows.vectors))


def _by_mmd(offer: Offer, rows: TaskRows, gamma: float) -> str:
    vectors = rows.vectors
    task = reduce_points(vectors, min(PACKAGE_POINTS, 2 * len(vectors) // 3), gamma)
    distances = []
    for one in offer.learnwares:
        view = one.specification.views[0]
        own = view.weights / view.weights.sum()
        distances.append(
            own @ gaussian(view.points, view.points, gamma) @ own
            - 2 * (task.weights @ gaussian(task.points, view.points, gamma) @ own)
        )
    return offer.learnwares[int(np.argmin(distances))].id


def _view_means(learnware: Learnware) -> Values:
    """The weighted mean of each view's points: (views, d)."""
    return np.stack([view.weights @ view.points / view.weights.sum() for view in learnware.specification.views])


TASK_RULES: dict[str, Callable[[Offer], TaskRule]] = {
    "nearest mean in the fitted metric": nearest_mean,
    "nearest centroid": nearest_centroid,
    "RKME, MMD, γ 0.1": package_rkme,
    "RKME, MMD, local γ": local_rkme,
    f"{NEIGHBOURS} nearest prompts": nearest_prompts,
}


def fit_task_rules(offer: Offer) -> dict[str, TaskRule]:
    """Every rule that can be fitted to this offer."""
    return {name: fit(offer) for name, fit in TASK_RULES.items()}
