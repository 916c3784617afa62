"""One request's text → one learnware, or the base model: Filter → Score → Pick.

    Filter   learnwares whose card fits the settings (languages, domains); done once, when the snapshot is built
    Score    closeness of the text to each specification (`specs.index`), in a metric fitted to all (`specs.metric`);
             where learnwares were measured, how well each is expected to answer what is this close (`router.ranking`)
    Pick     the best, if the closest is closer than everyday prompts are (confidence), else the base model

Confidence compares how near the nearest learnware and everyday prompts are (`router.everyday`).
"""

import copy
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.choice import BASE_BETTER, LOW_CONFIDENCE, MATCHED, TASK
from router.everyday import EverydayScale
from router.ranking import REQUEST_TAIL, TASK_TAIL, Ranking
from router.settings import SelectionSettings
from specs.encoder import Encoder
from specs.errors import InvalidSpecification
from specs.index import Closeness, SpecificationIndex
from specs.learnware import Learnware
from specs.metric import Metric, fit_metric, rows_of
from specs.prompts import everyday_prompts
from specs.rkme import ReducedSet
from specs.stack import PointStack, joined

NEAREST = 48
"""Learnwares whose closeness says to which tasks a request may belong, where some were measured; beyond them nothing
that matters is near."""
_EXPONENT_LIMIT = 500.0
_NONE_PASSES = "no learnware passes the filter (selection.languages, selection.domains)"


class Candidate(NamedTuple):
    """A learnware and its score in [0, 1]: the confidence, less the further it is behind the best.

    `quality` in [0, 1] is what may be expected of its answer relative to the best candidate's (1). Specifications say
    whose prompts a request belongs to, not how well a learnware answers; so it is 1 less the difference of the two
    probabilities that it belongs to one or the other, p being in proportion to the kernel mean exp(γ f):
    (p_best - p) / (p_best + p) = tanh(γ/2 · (f_best - f)). 0 where nobody may stand in for the best.

    Where learnwares were measured, `quality` is 1 less the difference of what is expected of them (`router.ranking`).
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
    """An immutable snapshot of specifications. To add or remove learnwares, make another one (`changed`, or a new one)
    and swap the reference: a request never sees half a change. Safe to use from several threads.

    Learnwares are numbered in the order in which they come; the numbers of those that are removed stay unused.
    """

    def __init__(self, learnwares: Sequence[Learnware], encoder: Encoder, settings: SelectionSettings) -> None:
        """Raises InvalidSpecification when no learnware passes the filter, or one is of another encoder."""
        self._encoder = encoder
        self._settings = settings
        self._learnwares = self._admitted(learnwares)
        if not self._learnwares:
            raise InvalidSpecification(_NONE_PASSES)
        everyday = encoder.encode(everyday_prompts())
        self.metric = _fit(self._learnwares, everyday, settings)
        self._numbers = {learnware.id: number for number, learnware in enumerate(self._learnwares)}
        self.index = SpecificationIndex([_projected(one, self.metric) for one in self._learnwares], settings.gamma)
        self._ranking = _ranking(self._learnwares)
        self._view_means = _view_means(self._learnwares, self.metric)
        self._everyday = EverydayScale(self.metric.apply(everyday), self.index, settings.gamma)

    def changed(self, added: Sequence[Learnware], removed: Collection[str]) -> "Selector":
        """The selector for these learnwares without those of the ids `removed` and with those `added`, in time in
        proportion to the changes since the last new one. The metric stays as it was fitted.

        Raises:
            InvalidSpecification: no learnware is left, or one is of another encoder.
        """
        other = copy.copy(self)
        other._change(added, removed)  # noqa: SLF001 (an object of this very class)
        return other

    def __len__(self) -> int:
        """Learnwares among which it chooses."""
        return len(self._numbers)

    @property
    def changes(self) -> int:
        """How many learnwares came or went since the metric was fitted."""
        return self.index.changes

    def check_integrity(self) -> list[str]:
        """What is wrong, in words; empty when the selector is whole."""
        problems = [f"index: {problem}" for problem in self.index.check_integrity()]
        if len(self.index) != len(self._numbers):
            problems.append(f"the index holds {len(self.index)} learnwares, {len(self._numbers)} have a number")
        wrong = [name for name, number in self._numbers.items() if self._learnwares[number].id != name]
        return problems + [f"learnware {name} has the number of another one" for name in wrong]

    def choose(self, text: str, top: int = 5) -> Choice:
        """The learnware for a request with this text, and up to `top` candidates. Never raises on odd text."""
        return self.choose_embedded(self.embed(text), top)

    def embed(self, text: str) -> NDArray[np.float32]:
        """The text's vector, for `choose_embedded`: (dim,), unit norm."""
        return np.asarray(self._encoder.encode([text])[0])

    def choose_embedded(self, vector: NDArray[np.float32], top: int = 5) -> Choice:
        """As `choose`, for a vector of `embed`."""
        x = self.metric.apply(vector)
        nearest = self.index.search(x, top if self._ranking is None else max(top, NEAREST))
        return self._pick(nearest, self._everyday.margin(x, float(nearest.values[0])), MATCHED, top)

    def answers_in_sentences(self, learnware_id: str) -> bool:  # noqa: ARG002
        """Whether the learnware answers in sentences, and not with a label, a letter or a number."""
        return False

    def choose_task(self, mean: NDArray[np.float32], top: int = 5) -> Choice:
        """The learnware for a whole task, given by the mean of its rows' vectors (dim,), noise included.

        Closeness is the distance to the nearest of a learnware's views' means. That bears noise which is far larger
        than one row's share of the mean, and chooses no worse than all rows together do (`python -m
        benchmarks.privacy`). Confidence is that of a request at this place.
        """
        x = self.metric.apply(mean)
        means = self._view_means
        squares = ((means.points - x) ** 2).sum(1, dtype=np.float64)
        closeness = -np.minimum.reduceat(squares, means.starts[:-1]) / 2
        numbers = np.fromiter(self._numbers.values(), np.int64)
        order = numbers[np.argsort(-closeness[numbers], kind="stable")[: max(top, NEAREST)]]
        margin = self._everyday.margin(x, float(self.index.search(x, 1).values[0]))
        return self._pick(Closeness(order, closeness[order]), margin, TASK, top)

    def _pick(self, nearest: Closeness, margin: float, reason: str, top: int) -> Choice:
        """The choice among the nearest learnwares, or among all where they were measured."""
        confidence, refusal = self._confidence(margin), LOW_CONFIDENCE
        if self._ranking is not None:
            best = self._ranking.best(nearest, top, TASK_TAIL if reason == TASK else REQUEST_TAIL)
            owners = best.owners
            scores = qualities = np.maximum(1 - (best.qualities[0] - best.qualities), 0.0)
            if confidence >= self._settings.min_confidence and best.qualities[0] < best.base:
                refusal = BASE_BETTER
            confidence *= best.at_least_base
        else:
            owners, behind = nearest.owners[:top], nearest.values[0] - nearest.values[:top]
            qualities = 1 - np.tanh(self._settings.gamma / 2 * behind)
            scores = np.exp(-behind / self._settings.score_scale)
        candidates = tuple(
            # a task keeps its learnware: nobody stands in
            Candidate(self._learnwares[owner].id, confidence * float(score), 0.0 if reason == TASK else float(quality))
            for owner, score, quality in zip(owners, scores, qualities, strict=True)
        )
        if confidence < self._settings.min_confidence or refusal == BASE_BETTER:
            return Choice(None, candidates[0].score, confidence, refusal, candidates)
        return Choice(candidates[0].learnware_id, candidates[0].score, confidence, reason, candidates)

    def standard_margin(self, vector: NDArray[np.float32]) -> float:
        """The margin on the scale of everyday prompts (0 their median, 1 their 95th percentile), for calibration."""
        x = self.metric.apply(vector)
        return self._everyday.margin(x, float(self.index.search(x, 1).values[0]))

    def _confidence(self, margin: float) -> float:
        exponent = (margin - self._settings.border) / self._settings.softness
        return float(1 / (1 + np.exp(-np.clip(exponent, -_EXPONENT_LIMIT, _EXPONENT_LIMIT))))

    def _change(self, added: Sequence[Learnware], removed: Collection[str]) -> None:
        admitted = self._admitted(added)
        gone = [self._numbers[learnware_id] for learnware_id in removed if learnware_id in self._numbers]
        if len(self._numbers) == len(gone) and not admitted:
            raise InvalidSpecification(_NONE_PASSES)
        first = len(self._learnwares)
        numbers = list(range(first, first + len(admitted)))
        self._numbers = dict(self._numbers)
        for number in gone:
            del self._numbers[self._learnwares[number].id]
        self._numbers |= {learnware.id: number for number, learnware in enumerate(admitted, first)}
        self._learnwares += admitted
        self.index = self.index.changed([_projected(one, self.metric) for one in admitted], gone)
        if self._ranking is not None:
            self._ranking = self._ranking.changed(admitted, gone)
        elif any(map(_measured, admitted)):
            dead = set(range(len(self._learnwares))) - set(self._numbers.values())
            self._ranking = Ranking(self._learnwares).changed([], sorted(dead))
        if admitted:
            self._view_means = joined(self._view_means, _view_means(admitted, self.metric))
        self._everyday = self._everyday.changed(self.index, numbers, gone)

    def _admitted(self, learnwares: Sequence[Learnware]) -> tuple[Learnware, ...]:
        """Those that pass the filter. Raises InvalidSpecification when one of them is of another encoder."""
        kept = tuple(learnware for learnware in learnwares if _passes(learnware, self._settings))
        for learnware in kept:
            if learnware.specification.encoder_id != self._encoder.id:
                raise InvalidSpecification(
                    f"learnware {learnware.id} was specified with encoder {learnware.specification.encoder_id!r}; "
                    f"this router uses {self._encoder.id!r}"
                )
        return kept


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


def _ranking(learnwares: Sequence[Learnware]) -> Ranking | None:
    """None where nobody was measured: then nearness alone decides, and a table of all tasks would only take room."""
    return Ranking(learnwares) if any(map(_measured, learnwares)) else None


def _measured(learnware: Learnware) -> bool:
    return learnware.capability is not None and bool(learnware.capability.probes)


def _view_means(learnwares: Sequence[Learnware], metric: Metric) -> PointStack:
    """The mean of each view's points, weighted, by learnware."""
    views = [learnware.specification.views for learnware in learnwares]
    means = [view.weights @ view.points / view.weights.sum() for of_one in views for view in of_one]
    starts = np.concatenate([[0], np.cumsum([len(of_one) for of_one in views])])
    return PointStack(metric.apply(rows_of(means).astype(np.float32)), np.zeros(len(means), np.float32), starts)
