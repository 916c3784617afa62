"""p(task | request): the probability that a request belongs to each known task, the base model's home among them.

The classes are the learnwares' tasks and the base model's *home*: everyday prompts, free questions of each domain, and
other asks put to the learnwares' own material. Their log-odds are linear in the request's vector (its ask beside its
material, `specs.encoding.encoder.PromptEncoder`): a multinomial logistic regression, fitted to the points of the
specifications and to the home's reduced sets, so it needs nobody's rows. Tasks that were learnt from feedback
(`specs.evidence`) are further classes, which no learnware speaks for. A density would ask whether a training point
is near, which a user's own words never are; a discriminative model asks which differences tell the tasks apart.

Ask and material stand side by side in a vector; that makes the third part of the home possible: any of the project's
other asks ("translate this", "why?") can be joined to any point's material without having seen the text behind it.

The loss is the cross-entropy, each class with a fixed share of the weight, plus a ridge on the coefficients; L-BFGS
(`scipy.optimize`) minimises it, starting from the fit before where there is one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.optimize import minimize

from router.index.index import Closeness
from specs.encoding.ask_encoder import ASK_DIM
from specs.encoding.encoder import load_prompt_encoder
from specs.home import OTHER_ASKS, Home, other_asks_on
from specs.learnware import Learnware
from specs.rkme import ReducedSet

Matrix = NDArray[np.float32]

MATERIAL_SCALE, ASK_SCALE = 4.0, 6.0
"""Lengths of a vector's two parts in the fit, where the ridge acts on their coefficients; in the vector itself both
have the same norm. A larger scale for the ask lets it count for more: more rewordings are told from other asks on the
same material."""
RIDGE = 2e-4
"""Weight of half the squared coefficients against the mean cross-entropy. From 5e-5 to 6e-4 the figures move by a
point."""
HOME_SHARE = 0.5
"""Share of the weight that the base model's home has, whatever the number of tasks: as far as nobody knows better, half
of all requests ask for nothing that a learnware answers."""
ITERATIONS = 80
"""The most iterations of L-BFGS: further ones change no probability that is shown."""
TASK_POINTS = 160
"""The most points of one task that are fitted to; for a task with many learnwares they are evenly spaced ones."""
COMPOSED_ASKS = 720
"""Points of other asks that are composed from vectors, the learnwares' material with the home's asks."""
DECLINED_POINTS = 720
"""The most declined points of specifications that are fitted to beside the composed ones; evenly spaced ones where
there are more."""
MOST_CLASSES = 64
"""The most classes of the learnwares' tasks. More tasks are put into so many groups of tasks that are alike, and the
specifications' nearness tells the tasks of a group apart."""
NEARNESS_TAIL = 20.0
"""The r by which a task's share of its group falls with the squared distance d² to its nearest specification: (1 +
d²/2r)^-r. Larger is better for single requests (chosen on probe rows)."""


class Fitted(NamedTuple):
    """Coefficients (classes, d) and intercepts (classes,) of the classes in `names`."""

    names: tuple[str, ...]
    coefficients: Matrix
    intercepts: NDArray[np.float32]

    def logits(self, x: Matrix) -> NDArray[np.float64]:
        """Returns unnormalised log-probabilities of one vector (d,) or several (n, d)."""
        return np.asarray(x @ self.coefficients.T + self.intercepts, np.float64)


def fit(
    tasks: Mapping[str, ReducedSet],
    home: Mapping[str, ReducedSet],
    before: Fitted | None = None,
    ridge: float = RIDGE,
    home_share: float = HOME_SHARE,
) -> Fitted:
    """Fits the model of these classes, given by weighted points; names must differ. `before`, a fit of other or fewer
    classes, only makes it faster."""
    names = (*tasks, *home)
    sets = [*tasks.values(), *home.values()]
    shares = [(1 - home_share) / max(len(tasks), 1)] * len(tasks) + [home_share / max(len(home), 1)] * len(home)
    scale = _scale(sets[0].points.shape[1])
    points = np.concatenate([one.points for one in sets]).astype(np.float32) * scale
    weights = np.concatenate(
        [share * one.weights / one.weights.sum() for share, one in zip(shares, sets, strict=True)]
    ).astype(np.float32)
    weights /= weights.sum()
    labels = np.repeat(np.arange(len(sets)), [len(one.points) for one in sets])
    rows, dim = np.arange(len(labels)), points.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(len(sets), dim + 1)
        coefficients = theta[:, :dim].astype(np.float32)
        logits = points @ coefficients.T + theta[:, dim].astype(np.float32)
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        value = -float(weights @ logits[rows, labels].astype(np.float64))
        residual = np.exp(logits)
        residual[rows, labels] -= 1
        residual *= weights[:, None]
        gradient = np.empty_like(theta)
        gradient[:, :dim] = residual.T @ points + ridge * theta[:, :dim]
        gradient[:, dim] = residual.sum(0, dtype=np.float64)
        return value + ridge / 2 * float((theta[:, :dim] ** 2).sum()), gradient.ravel()

    start = _start(names, scale, before)
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "maxcor": 12})
    theta = found.x.reshape(len(sets), dim + 1)
    return Fitted(names, (theta[:, :dim] * scale).astype(np.float32), np.ascontiguousarray(theta[:, dim], np.float32))


def _scale(dim: int) -> NDArray[np.float32]:
    scale = np.full(dim, MATERIAL_SCALE, np.float32)
    scale[-ASK_DIM:] = ASK_SCALE
    return scale


def _start(names: Sequence[str], scale: NDArray[np.float32], before: Fitted | None) -> NDArray[np.float64]:
    dim = len(scale)
    start = np.zeros((len(names), dim + 1))
    if before is not None and before.coefficients.shape[1] == dim:
        known = {name: row for row, name in enumerate(before.names)}
        for row, name in enumerate(names):
            if name in known:
                start[row, :dim] = before.coefficients[known[name]] / scale
                start[row, dim] = before.intercepts[known[name]]
    return start


class Probabilities(NamedTuple):
    """One request's p(t | x) by class of the learnwares' tasks (classes,), and by part of the base model's home
    (parts,)."""

    tasks: NDArray[np.float64]
    home: NDArray[np.float64]


def class_of(learnware: Learnware) -> str:
    """Returns the class that a learnware's specification speaks for: its task, or its tasks together."""
    return "+".join(sorted(own_tasks(learnware)))


def own_tasks(learnware: Learnware) -> list[str]:
    """Returns the tasks that its card names, each as <domain>-<task>."""
    return [f"{learnware.domain}-{task}" for task in learnware.tasks]


class TaskModel:
    """An immutable model of the tasks of some learnwares, in the order given; those that `changed` adds take the next
    numbers. Classes are numbered in the order of their first learnwares."""

    def __init__(
        self,
        learnwares: Sequence[Learnware],
        home: Home,
        before: "TaskModel | None" = None,
        learnt: Mapping[str, ReducedSet] | None = None,
    ) -> None:
        """Fits the model. `before`, the model of other learnwares, only makes it faster. `learnt` are tasks of no
        learnware's, given by weighted points."""
        self._home_sets = home
        self._learnt = dict(learnt or {})
        own = tuple(dict.fromkeys(map(class_of, learnwares)))
        self.classes: tuple[str, ...] = (*own, *self._learnt)
        numbers = {name: number for number, name in enumerate(own)}
        self.class_of_learnware = np.array([numbers[class_of(one)] for one in learnwares], np.int64)
        groups, grouped = _grouped(_sets_by_class(learnwares, own))
        # A learnt task stands alone, so it can be told however many tasks there are; no new learnware joins it.
        self._groups = np.concatenate([groups, len(grouped) + np.arange(len(self._learnt))])
        self._centres = np.stack([one.weights @ one.points / one.weights.sum() for one in grouped.values()])
        grouped |= self._learnt
        parts = dict(home.sets) | {OTHER_ASKS: _other_asks(learnwares, home)}
        self.home: tuple[str, ...] = tuple(parts)
        self._fitted: Fitted = fit(grouped, parts, None if before is None else before._fitted)  # noqa: SLF001 (of this class)

    def changed(self, added: Sequence[Learnware], learnwares: Sequence[Learnware]) -> "TaskModel":
        """Returns the model after `added` have joined; `learnwares` are all, these among them, by number. Where a task
        is new and has no group to join the model is fitted anew, from where it was."""
        classes = dict.fromkeys([*self.classes, *map(class_of, added)])
        if len(classes) > len(self.classes) and len(self._groups_alone) == len(self.classes):
            return TaskModel(learnwares, self._home_sets, self, self._learnt)
        other = object.__new__(TaskModel)
        other.__dict__ |= self.__dict__
        other.classes = tuple(classes)
        numbers = {name: number for number, name in enumerate(other.classes)}
        joined = [numbers[class_of(one)] for one in added]
        other.class_of_learnware = np.concatenate([self.class_of_learnware, np.array(joined, np.int64)])
        new = [one for one in added if numbers[class_of(one)] >= len(self.classes)]
        fresh = {class_of(one): self._nearest_group(one) for one in new}
        other._groups = np.concatenate([self._groups, np.array(list(fresh.values()), np.int64)])
        return other

    def probabilities(self, x: Matrix, nearest: Closeness, variance: float = 0.0) -> Probabilities:
        """Returns p of every class for a vector (dim,).

        Args:
            x: the vector.
            nearest: the nearest learnwares, which tell tasks of one group apart.
            variance: variance of noise in each coordinate of x, which makes the probabilities less sharp (MacKay 1992,
                "The Evidence Framework Applied to Classification Networks", equation 19).
        """
        logits = self._fitted.logits(x)
        if variance:
            centred = self._fitted.coefficients - self._fitted.coefficients.mean(0)
            spread = variance * (centred.astype(np.float64) ** 2).sum(1)
            logits = (logits - logits.mean()) / np.sqrt(1 + np.pi * spread / 8)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        groups, home = weights[: -len(self.home)], weights[-len(self.home) :]
        if len(groups) == len(self.classes):
            return Probabilities(groups, home)
        return Probabilities(self._within(groups, nearest), home)

    @property
    def learnt(self) -> NDArray[np.int64]:
        """Numbers of the classes that are learnt tasks."""
        return np.flatnonzero([name in self._learnt for name in self.classes])

    @property
    def _groups_alone(self) -> NDArray[np.int64]:
        """Numbers of the groups that hold one class each."""
        return np.flatnonzero(np.bincount(self._groups) == 1)

    def _within(self, groups: NDArray[np.float64], nearest: Closeness) -> NDArray[np.float64]:
        """Deals each group's probability out to its classes by the nearness of their specifications. A group of which
        none is near keeps its probability in its first class, so that nothing is lost."""
        shares = np.zeros(len(self.classes))
        owners = self.class_of_learnware[nearest.owners]
        far = np.maximum(-nearest.values, 0.0)
        np.maximum.at(shares, owners, np.exp(-NEARNESS_TAIL * np.log1p(far / NEARNESS_TAIL)))
        sums = np.bincount(self._groups, weights=shares, minlength=len(groups))
        empty = np.flatnonzero(sums <= 0)
        first = np.full(len(groups), -1)
        first[self._groups[::-1]] = np.arange(len(self._groups))[::-1]
        shares[first[empty]] = 1.0
        sums[empty] = 1.0
        return np.asarray(groups[self._groups] * shares / sums[self._groups])

    def _nearest_group(self, learnware: Learnware) -> int:
        reduced = learnware.specified.whole_set
        mean = reduced.weights @ reduced.points / reduced.weights.sum()
        scale = _scale(len(mean))
        return int((((self._centres - mean) * scale) ** 2).sum(1).argmin())


def _sets_by_class(learnwares: Sequence[Learnware], classes: Sequence[str]) -> dict[str, ReducedSet]:
    members: dict[str, list[Learnware]] = {name: [] for name in classes}
    for one in learnwares:
        members[class_of(one)].append(one)
    return {name: _points_of(some) for name, some in members.items()}


def _points_of(learnwares: Sequence[Learnware]) -> ReducedSet:
    """Returns the points of learnwares of one class, all counting alike."""
    sets = [one.specified.whole_set for one in learnwares]
    points = np.concatenate([one.points for one in sets])
    weights = np.concatenate([one.weights / one.weights.sum() for one in sets])
    kept = _evenly(len(points), TASK_POINTS)
    return ReducedSet(points[kept], weights[kept])


def _evenly(count: int, most: int) -> NDArray[np.int64]:
    return np.arange(count) if count <= most else np.arange(most) * count // most


def _grouped(sets: Mapping[str, ReducedSet]) -> tuple[NDArray[np.int64], dict[str, ReducedSet]]:
    """Returns the group of each class, and the groups' points."""
    names = list(sets)
    if len(names) <= MOST_CLASSES:
        return np.arange(len(names)), dict(sets)
    means = np.stack([one.weights @ one.points / one.weights.sum() for one in sets.values()]).astype(np.float64)
    _, found = kmeans2(means * _scale(means.shape[1]), MOST_CLASSES, minit="++", seed=0)
    _, groups = np.unique(found, return_inverse=True)
    grouped = {}
    for number in range(int(groups.max()) + 1):
        members = [sets[names[i]] for i in np.flatnonzero(groups == number)]
        points = np.concatenate([one.points for one in members])
        weights = np.concatenate([one.weights / one.weights.sum() for one in members])
        kept = _evenly(len(points), TASK_POINTS)
        grouped[f"group {number}"] = ReducedSet(points[kept], weights[kept])
    return groups.astype(np.int64), grouped


def _other_asks(learnwares: Sequence[Learnware], home: Home) -> ReducedSet:
    """Returns other asks on the learnwares' material: composed from vectors, and declined points that their makers
    composed from texts."""
    encoder = load_prompt_encoder()
    sets = [one.specified.whole_set.points for one in _spread(learnwares)]
    materials, asks = encoder.parts(np.concatenate(sets).astype(np.float32))
    parts = [other_asks_on(materials, asks, home.asks, COMPOSED_ASKS)]
    declined = [one.specified.declined for one in learnwares if one.specified.declined is not None]
    if declined:
        points = np.concatenate([some[: max(1, 2 * DECLINED_POINTS // len(declined))] for some in declined])
        parts.append(points[_evenly(len(points), DECLINED_POINTS)].astype(np.float32))
    points = np.concatenate(parts)
    return ReducedSet(points, np.full(len(points), 1 / len(points)))


def _spread(learnwares: Sequence[Learnware]) -> list[Learnware]:
    """Returns so many learnwares, evenly spaced, that each may give a composed ask its material."""
    return [learnwares[i] for i in _evenly(len(learnwares), COMPOSED_ASKS)]
