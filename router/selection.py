"""One request's text → one learnware, or the base model: Filter → Score → Pick.

    Filter   learnwares whose card fits the settings (languages, domains); done once, when the snapshot is built
    Score    closeness of the text to each specification (`specs.index`), in a metric fitted to all (`specs.metric`);
             where learnwares were measured, how well each is expected to answer what is this close (`router.ranking`)
    Pick     the best, if the closest is closer than everyday prompts are (confidence), else the base model

Confidence compares two densities: the margin is f(nearest learnware) - f(everyday prompts), where the everyday
prompts are the project's own (`general_prompts.txt`). Its scale is set by those prompts themselves, each scored with
its own point left out: 0 is their median margin and 1 their 95th percentile. So the border moves along when
learnwares come and go, and no user's data is needed to place it.
"""

import importlib.resources
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.choice import BASE_BETTER, LOW_CONFIDENCE, MATCHED, TASK
from router.ranking import Ranking
from router.settings import SelectionSettings
from specs.encoder import Encoder
from specs.errors import InvalidSpecification
from specs.index import Closeness, SpecificationIndex
from specs.learnware import Learnware
from specs.metric import Metric, fit_metric
from specs.rkme import ReducedSet, squared_distances

EVERYDAY_SPREAD_QUANTILE = 0.95
"""The everyday prompts' margin that counts as 1. Nearer to the maximum it would hang on single prompts."""
NEAREST = 48
"""Learnwares whose closeness says to which tasks a request may belong; beyond them nothing that matters is near."""
_EXPONENT_LIMIT = 500.0


class Candidate(NamedTuple):
    """A learnware and its score in [0, 1]: the confidence, less the further it is behind the best.

    `quality` in [0, 1] is what may be expected of its answer relative to the best candidate's (1). Specifications say
    whose prompts a request belongs to, not how well a learnware answers; so it is 1 less the difference of the two
    probabilities that it belongs to one or the other, p being in proportion to the kernel mean exp(γ f):
    (p_best - p) / (p_best + p) = tanh(γ/2 · (f_best - f)). 0 where nobody may stand in for the best.

    Where learnwares were measured, `quality` is 1 less the difference of the expected probabilities of a right answer.
    """

    learnware_id: str
    score: float
    quality: float = 0.0


class Choice(NamedTuple):
    """`learnware_id` None is the base model. `score` is the best candidate's, also when the base model was picked.

    `confidence` is the probability that the request is of the learnwares' kind; where the chosen one was measured,
    times the probability that it then answers at least as well as the base model.
    """

    learnware_id: str | None
    score: float
    confidence: float
    reason: str
    candidates: tuple[Candidate, ...]


class Selector:
    """An immutable snapshot of specifications. To add or remove a learnware, build another one and swap the
    reference: a request never sees half a change. Safe to use from several threads."""

    def __init__(self, learnwares: Sequence[Learnware], encoder: Encoder, settings: SelectionSettings) -> None:
        """Raises InvalidSpecification when no learnware passes the filter, or one is of another encoder."""
        kept = [learnware for learnware in learnwares if _passes(learnware, settings)]
        if not kept:
            raise InvalidSpecification("no learnware passes the filter (selection.languages, selection.domains)")
        for learnware in kept:
            if learnware.specification.encoder_id != encoder.id:
                raise InvalidSpecification(
                    f"learnware {learnware.id} was specified with encoder {learnware.specification.encoder_id!r}; "
                    f"this router uses {encoder.id!r}"
                )
        self._encoder = encoder
        self._settings = settings
        self._ids = tuple(learnware.id for learnware in kept)
        everyday = encoder.encode(general_prompts())
        self.metric = _fit(kept, everyday, settings)
        self.index = SpecificationIndex([_projected(learnware, self.metric) for learnware in kept], settings.gamma)
        self._ranking = Ranking(kept)
        self._view_means = np.concatenate([_view_means(learnware, self.metric) for learnware in kept])
        counts = [len(learnware.specification.views) for learnware in kept]
        self._view_starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        points = self.metric.apply(everyday)
        uniform = np.full(len(points), 1 / len(points))
        self._everyday = SpecificationIndex([(points, uniform)], settings.gamma)
        self._median, self._spread = self._everyday_margins(points)

    def choose(self, text: str, top: int = 5) -> Choice:
        """The learnware for a request with this text, and up to `top` candidates. Never raises on odd text."""
        return self.choose_embedded(self.embed(text), top)

    def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector, for `choose_embedded`: (dim,), unit norm."""
        return np.asarray(self._encoder.encode([text])[0])

    def choose_embedded(self, vector: NDArray[np.float32], top: int = 5) -> Choice:
        """As `choose`, for a vector of `embed`."""
        x = self.metric.apply(vector)
        nearest = self.index.search(x, max(top, NEAREST))
        margin = float(nearest.values[0] - self._everyday.all_values(x)[0])
        return self._pick(nearest, margin, MATCHED, top)

    def choose_task(self, mean: NDArray[np.float32], top: int = 5) -> Choice:
        """The learnware for a whole task, given by the mean of its rows' vectors (dim,), noise included.

        Closeness is the distance to the nearest of a learnware's views' means. That bears noise which is far larger
        than one row's share of the mean, and chooses no worse than all rows together do (`python -m
        benchmarks.privacy`). Confidence is that of a request at this place.
        """
        x = self.metric.apply(mean)
        squares = ((self._view_means - x) ** 2).sum(1, dtype=np.float64)
        closeness = -np.minimum.reduceat(squares, self._view_starts) / 2
        order = np.argsort(-closeness, kind="stable")[: max(top, NEAREST)]
        margin = float(self.index.search(x, 1).values[0] - self._everyday.all_values(x)[0])
        return self._pick(Closeness(order, closeness[order]), margin, TASK, top)

    def _pick(self, nearest: Closeness, margin: float, reason: str, top: int) -> Choice:
        """The choice among the nearest learnwares, or among all where they were measured."""
        confidence, refusal = self._confidence(margin), LOW_CONFIDENCE
        if self._ranking.any_measured:
            best = self._ranking.best(nearest, top)
            owners = best.owners
            scores = qualities = 1 - (best.qualities[0] - best.qualities)
            if confidence >= self._settings.min_confidence and best.qualities[0] < best.base:
                refusal = BASE_BETTER
            confidence *= best.at_least_base
        else:
            owners, behind = nearest.owners[:top], nearest.values[0] - nearest.values[:top]
            qualities = 1 - np.tanh(self._settings.gamma / 2 * behind)
            scores = np.exp(-behind / self._settings.score_scale)
        candidates = tuple(
            # a task keeps its learnware: nobody stands in
            Candidate(self._ids[owner], confidence * float(score), 0.0 if reason == TASK else float(quality))
            for owner, score, quality in zip(owners, scores, qualities, strict=True)
        )
        if confidence < self._settings.min_confidence or refusal == BASE_BETTER:
            return Choice(None, candidates[0].score, confidence, refusal, candidates)
        return Choice(candidates[0].learnware_id, candidates[0].score, confidence, reason, candidates)

    def standard_margin(self, vector: NDArray[np.float32]) -> float:
        """The margin on the scale of everyday prompts (0 their median, 1 their 95th percentile), for calibration."""
        x = self.metric.apply(vector)
        margin = float(self.index.search(x, 1).values[0] - self._everyday.all_values(x)[0])
        return (margin - self._median) / self._spread

    def _confidence(self, margin: float) -> float:
        standard = (margin - self._median) / self._spread
        exponent = (standard - self._settings.border) / self._settings.softness
        return float(1 / (1 + np.exp(-np.clip(exponent, -_EXPONENT_LIMIT, _EXPONENT_LIMIT))))

    def _everyday_margins(self, points: NDArray[np.float32]) -> tuple[float, float]:
        """Median of the everyday prompts' own margins and the distance from there to their 95th percentile, each prompt
        compared with all others but itself."""
        gamma = self._settings.gamma
        exponents = -gamma / 2 * squared_distances(points, points)
        np.fill_diagonal(exponents, -np.inf)
        peaks = exponents.max(1)
        logs = peaks + np.log(np.exp(exponents - peaks[:, None]).sum(1) / (len(points) - 1))
        nearest = np.array([self.index.search(point, 1).values[0] for point in points])
        margins = nearest - logs / gamma
        median, upper = np.quantile(margins, [0.5, EVERYDAY_SPREAD_QUANTILE])
        return float(median), max(float(upper - median), 1e-6)


def general_prompts() -> list[str]:
    """The project's own everyday prompts, which belong to no learnware."""
    text = importlib.resources.files("router").joinpath("general_prompts.txt").read_text(encoding="utf-8")
    return [line.replace("\\n", "\n") for line in text.splitlines() if line and not line.startswith("# ")]


def _passes(learnware: Learnware, settings: SelectionSettings) -> bool:
    languages, domains = settings.languages, settings.domains
    speaks = not languages or bool(set(languages) & set(learnware.languages))
    return speaks and (not domains or learnware.domain in domains)


def _fit(learnwares: Sequence[Learnware], everyday: NDArray[np.float32], settings: SelectionSettings) -> Metric:
    classes = [
        [ReducedSet(view.points, view.weights) for view in learnware.specification.views] for learnware in learnwares
    ]
    background = ReducedSet(everyday, np.full(len(everyday), 1 / len(everyday)))
    return fit_metric(classes, background, settings.shrinkage, settings.rank)


def _projected(learnware: Learnware, metric: Metric) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    reduced = learnware.specification.whole_set
    return metric.apply(reduced.points), reduced.weights


def _view_means(learnware: Learnware, metric: Metric) -> NDArray[np.float32]:
    """The mean of each view's points, weighted: (views, r)."""
    views = learnware.specification.views
    return metric.apply(np.stack([view.weights @ view.points / view.weights.sum() for view in views]))
