"""Other rules that choose from a market of learnwares, to stand beside the project's own in one table.

A rule is fitted once to what is on offer (`Offer`: learnwares with their specifications, and their scores on probe
rows). A task rule is then asked for one learnware for a task, of which it sees some train rows (`TaskRows`); a request
rule for one learnware for each request. No rule sees a score on a test row, and no task rule a test row.

Some rules need what takes minutes to make (`benchmarks.market.rule_inputs`); without it they are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.scores import BASE, TaskScores
from benchmarks.market.adapter_rules import read_spectra, scores
from benchmarks.market.rule_inputs import RuleInputs
from router.selection import Selector
from specs.encoding.encoder import Encoder
from specs.learnware import Learnware
from specs.pave import ParameterVector
from specs.rkme import gaussian, local_gamma, reduce_points
from specs.specification_types import PARAMETER_VECTOR

NEIGHBOURS = 10
ROWS_A_TASK = 64
"""The amortised map is fitted to so many of the provider's rows of each task."""
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties that are tried, as multiples of the mean eigenvalue; the one with the least leave-one-out error is
taken."""
NOT_MEASURED = -0.02
"""Gain over the base model that learned score prediction is taught where a learnware was not measured, as in
`router.ranking`: without it a learnware of another domain would be guessed at."""
PACKAGE_GAMMA = 0.1
PACKAGE_POINTS = 100

Vectors = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Offer:
    """The information that a rule may be fitted to before it is asked."""

    learnwares: Sequence[Learnware]
    probes: Mapping[str, TaskScores]
    """Scores on probe rows, by task."""
    selector: Selector
    """The router's snapshot of the same learnwares, for rules that use its metric."""
    probe_vectors: Mapping[str, Vectors] = field(default_factory=dict)
    """The probe rows' vectors, by task."""
    encoder: Encoder | None = None
    inputs: RuleInputs | None = None

    @cached_property
    def vectors(self) -> list[ParameterVector | None]:
        """Returns the vector of each learnware, or else the mean of those of its tasks' providers."""
        made = {} if self.inputs is None else self.inputs.provider
        return [
            one.vector or _mean_vector([made.get(f"{one.domain}-{task}") for task in one.tasks])
            for one in self.learnwares
        ]


class TaskRows(NamedTuple):
    """A task as its owner knows it: a name for what was computed from its rows before, and the rows' vectors (n, d)."""

    task: str
    vectors: Vectors


TaskRule = Callable[[TaskRows], str]
"""A task's rows → a learnware's id."""
RequestRule = Callable[[Vectors], list[str]]
"""Requests' vectors (n, d) → a learnware's id for each."""


def nearest_centroid(offer: Offer) -> TaskRule:
    """Chooses the learnware whose prompts' mean has the largest cosine with the task's (ARIADNE)."""
    means = np.stack([_view_means(one)[0] for one in offer.learnwares])
    centroids = means / np.linalg.norm(means, axis=1, keepdims=True)
    return lambda rows: offer.learnwares[int((centroids @ rows.vectors.mean(0)).argmax())].id


def nearest_mean(offer: Offer) -> TaskRule:
    """Chooses the learnware with the nearest mean of a view, in the metric that is fitted to all specifications."""
    metric = offer.selector.metric
    views = [_view_means(one) for one in offer.learnwares]
    means, owners = metric.apply(np.concatenate(views)), np.repeat(np.arange(len(views)), [len(one) for one in views])

    def choose(rows: TaskRows) -> str:
        squares = ((means - metric.apply(rows.vectors.mean(0))) ** 2).sum(1, dtype=np.float64)
        return offer.learnwares[int(owners[squares.argmin()])].id

    return choose


def nearest_prompts(offer: Offer) -> TaskRule:
    """Chooses by k nearest neighbours: each row votes for the owners of its nearest points among all learnwares'
    reduced sets."""
    sets = [one.specified.views[0].points for one in offer.learnwares]
    points, owners = np.concatenate(sets), np.repeat(np.arange(len(sets)), [len(one) for one in sets])

    def choose(rows: TaskRows) -> str:
        votes = np.zeros(len(sets))
        for row in rows.vectors @ points.T:
            votes += np.bincount(owners[np.argpartition(-row, NEIGHBOURS)[:NEIGHBOURS]], minlength=len(sets))
        return offer.learnwares[int(votes.argmax())].id

    return choose


def package_rkme(offer: Offer) -> TaskRule:
    """Chooses by the `learnware` package's rule: least squared MMD of reduced sets, γ = 0.1."""
    return lambda rows: _by_mmd(offer, rows, PACKAGE_GAMMA)


def local_rkme(offer: Offer) -> TaskRule:
    """Chooses by the least squared MMD of reduced sets with γ from the task's rows (`specs.rkme.local_gamma`)."""
    return lambda rows: _by_mmd(offer, rows, local_gamma(rows.vectors))


def _by_mmd(offer: Offer, rows: TaskRows, gamma: float) -> str:
    vectors = rows.vectors
    task = reduce_points(vectors, min(PACKAGE_POINTS, 2 * len(vectors) // 3), gamma)
    distances = []
    for one in offer.learnwares:
        view = one.specified.views[0]
        own = view.weights / view.weights.sum()
        distances.append(
            own @ gaussian(view.points, view.points, gamma) @ own
            - 2 * (task.weights @ gaussian(task.points, view.points, gamma) @ own)
        )
    return offer.learnwares[int(np.argmin(distances))].id


def _view_means(learnware: Learnware) -> Values:
    """Returns the weighted mean of each view's points: (views, d)."""
    return np.stack([view.weights @ view.points / view.weights.sum() for view in learnware.specified.views])


def _mean_vector(vectors: Sequence[ParameterVector | None]) -> ParameterVector | None:
    """Returns a learnware's parameter vector; None where one of its tasks has none. With several tasks it is the mean
    of theirs, since training is short and the vector is about that."""
    known = [one for one in vectors if one is not None]
    if not known or len(known) < len(vectors):
        return None
    norms = [np.sqrt(sum(float((part**2).sum()) for part in one.parts.values())) for one in known]
    parts = {
        name: np.mean([one.parts[name] / norm for one, norm in zip(known, norms, strict=True)], axis=0)
        for name in known[0].parts
    }
    return ParameterVector(known[0].basis, sum(one.rows for one in known), parts)


def package_pave(offer: Offer) -> TaskRule | None:
    """Chooses by the `learnware` package's rule for parameter vectors: the largest sigmoid(10 cos)."""
    inputs, vectors = offer.inputs, offer.vectors
    if inputs is None or not set(offer.probes) <= set(inputs.user):
        return None

    def choose(rows: TaskRows) -> str:
        asked = inputs.user[rows.task]
        matches = [0.0 if one is None else PARAMETER_VECTOR.score(one, asked) for one in vectors]
        return offer.learnwares[int(np.argmax(matches))].id

    return choose


def amortised_pave(offer: Offer) -> RequestRule | None:
    """Chooses by predicted parameter vectors: a ridge regression maps a row's vector to its task's, so that a request
    needs no training, and the learnware with the largest cosine to the prediction is taken.

    Parameter vectors are taken in coordinates that span the providers' own, in which all their products are exact.
    """
    inputs, encoder = offer.inputs, offer.encoder
    named = {f"{one.domain}-{task}" for one in offer.learnwares for task in one.tasks}
    tasks = [] if inputs is None else sorted(named & set(inputs.provider))
    if inputs is None or encoder is None or len(tasks) < 2:
        return None
    taus = np.stack([inputs.provider[task].tau for task in tasks])
    _, _, span = np.linalg.svd(taus, full_matrices=False)
    known = [index for index, one in enumerate(offer.vectors) if one is not None]
    sketches = np.stack([vector.tau for vector in offer.vectors if vector is not None]) @ span.T
    sketches /= np.linalg.norm(sketches, axis=1, keepdims=True)
    rows = [encoder.encode(inputs.texts[task][:ROWS_A_TASK]) for task in tasks]
    targets = np.repeat(taus @ span.T, [len(one) for one in rows], axis=0)
    predict = ridge(np.concatenate(rows), targets)
    return lambda vectors: [offer.learnwares[known[best]].id for best in (predict(vectors) @ sketches.T).argmax(1)]


def learned_scores(offer: Offer) -> RequestRule | None:
    """Chooses by predicted scores (EmbedLLM, Zhuang et al. 2025; LoRAuter, arXiv 2601.21795): a ridge regression maps a
    probe row's vector to the gain of every learnware over the base model, in the gold answer's probability."""
    tasks = [task for task in offer.probes if task in offer.probe_vectors]
    if not tasks:
        return None
    gains = []
    for task in tasks:
        among = offer.probes[task].among
        base = among[BASE]
        gains.append(
            np.stack(
                [
                    among[one.id] - base if one.id in among else np.full(len(base), NOT_MEASURED)
                    for one in offer.learnwares
                ],
                axis=1,
            )
        )
    predict = ridge(np.concatenate([offer.probe_vectors[task] for task in tasks]), np.concatenate(gains))
    return lambda vectors: [offer.learnwares[best].id for best in predict(vectors).argmax(1)]


def ridge(x: Vectors, y: Values) -> Callable[[Vectors], Values]:
    """Fits a ridge regression with an intercept, (n, d) → (n, k). Its penalty is chosen by the leave-one-out error,
    which has a closed form (Allen 1974)."""
    mean, centre = x.mean(0, dtype=np.float64), y.mean(0)
    left, values, right = np.linalg.svd(x - mean, full_matrices=False)
    along = left.T @ (y - centre)
    best, weights = np.inf, np.zeros((x.shape[1], y.shape[1]))
    for multiple in RIDGES:
        shrunk = values**2 / (values**2 + multiple * float((values**2).mean()))
        residual = y - centre - left @ (shrunk[:, None] * along)
        leverage = (left**2) @ shrunk + 1 / len(x)
        error = float(((residual / (1 - np.minimum(leverage, 0.999))[:, None]) ** 2).mean())
        if error < best:
            best = error
            weights = right.T @ ((shrunk / np.maximum(values, 1e-9))[:, None] * along)
    return lambda asked: np.asarray((asked - mean) @ weights + centre)


def arrow(offer: Offer) -> TaskRule | None:
    """Chooses by Arrow, on the base model's states for some of the task's rows (`benchmarks.market.adapter_rules`)."""
    return _by_weights(offer, 0)


def spectr(offer: Offer) -> TaskRule | None:
    """Chooses by SpectR, on the base model's states for some of the task's rows (`benchmarks.market.adapter_rules`)."""
    return _by_weights(offer, 1)


def _by_weights(offer: Offer, which: int) -> TaskRule | None:
    if offer.inputs is None or not set(offer.probes) <= set(offer.inputs.states):
        return None
    states = offer.inputs.states
    adapters = [read_spectra(one.folder) for one in offer.learnwares]
    return lambda rows: offer.learnwares[int(scores(adapters, states[rows.task])[which].argmax())].id


TASK_RULES: dict[str, Callable[[Offer], TaskRule | None]] = {
    "nearest mean in the fitted metric": nearest_mean,
    "nearest centroid": nearest_centroid,
    "RKME, MMD, γ 0.1": package_rkme,
    "RKME, MMD, local γ": local_rkme,
    f"{NEIGHBOURS} nearest prompts": nearest_prompts,
    "PAVE, sigmoid(10 cos)": package_pave,
    "Arrow": arrow,
    "SpectR": spectr,
}
REQUEST_RULES: dict[str, Callable[[Offer], RequestRule | None]] = {
    "amortised PAVE, per request": amortised_pave,
    "learned scores, per request": learned_scores,
}


class Rules(NamedTuple):
    """Fitted rules by name."""

    task: dict[str, TaskRule]
    request: dict[str, RequestRule]


def fit_rules(offer: Offer) -> Rules:
    """Fits every rule whose inputs this offer has."""
    task = {name: rule for name, fit in TASK_RULES.items() if (rule := fit(offer)) is not None}
    request = {name: rule for name, fit in REQUEST_RULES.items() if (rule := fit(offer)) is not None}
    return Rules(task, request)
