"""Chooses one learnware, or the base model, for one text: Filter → Score → Pick.

Filter   learnwares with a specification whose card fits the settings (languages, domains); done once, when the snapshot
         is built
Score    p(task | request), the base model's home among the tasks (`router.task_model`), and none for tasks whose
         answers lack the form that the request asks for (`specs.answers.form`); the expected quality of every learnware
         (`router.ranking`); nearness of the specifications (`router.index.index`, in a metric fitted to all of them,
         `router.index.metric`) tells equals apart
Pick     the largest expected quality, the base model being a candidate like the others; and a learnware only if the
         request probably asks for something that it answers better than the base model
"""

import copy
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.choice import BASE_BETTER, CANARY, LOW_CONFIDENCE, MATCHED, TASK
from router.forms import Forms
from router.index.index import Closeness, SpecificationIndex
from router.index.metric import Metric, fit_metric, rows_of
from router.index.point_stack import PointStack, joined
from router.learnt import LearntTasks
from router.ranking import Ranking
from router.settings import SelectionSettings
from router.task_model import Probabilities, TaskModel
from specs.answers.form import AnswerForm, asked_form
from specs.canary import learnware_of
from specs.encoding.encoder import Encoder
from specs.errors import InvalidSpecification
from specs.evidence import Evidence
from specs.home import EVERYDAY, Home, load_home
from specs.learnware import Learnware
from specs.rkme import ReducedSet

NEAREST = 48
"""Number of the nearest learnwares that are looked up, to tell equals and the tasks of one group apart; beyond them
nothing that matters is near."""
COMPARED = 12
"""Number of the nearest learnwares whose points are compared with those of learnt tasks."""
_NONE_PASSES = "no learnware passes the filter (selection.languages, selection.domains)"


class Candidate(NamedTuple):
    """A learnware that might answer. `score` in [0, 1] is the probability that the request asks for something that it
    answers better than the base model. `expected` is its expected quality. `quality` in [0, 1] is 1 less the difference
    of its expected quality to the best candidate's; 0 where no learnware may replace the best."""

    learnware_id: str
    score: float
    quality: float = 0.0
    expected: float = 0.0


class ReadText(NamedTuple):
    """The text of a choice as it was read, without its words: a choice can be made again from it, over another market,
    by an encoder with the same fingerprint."""

    vector: bytes
    """The text's vector of `Selector.embed`, in float16."""
    form: AnswerForm | None
    """The form of answer that the text asks for."""
    ask: tuple[str, ...] = ()
    """The sentences that were taken for the ask, where they are kept."""


class Choice(NamedTuple):
    """The chosen learnware (None: the base model) and the reason. `score` is the best candidate's, also when the base
    model was picked. `confidence` is the probability that the chosen one answers at least as well as the base model;
    for the base model itself that of the best learnware. `base` is the base model's expected quality."""

    learnware_id: str | None
    score: float
    confidence: float
    reason: str
    candidates: tuple[Candidate, ...]
    base: float = 0.0
    probabilities: tuple[tuple[str, float], ...] = ()
    """The likeliest tasks, parts of the base model's home among them (with `base:` before their name)."""
    bound: float = 0.0
    """The least score with which a learnware would have been picked; 0 where none was looked for."""
    read: ReadText | None = None
    """The one text that decided, as it was read; None where there is none, or where several did."""


def next_best(choice: Choice) -> str | None:
    """Returns the learnware that answers a matched request if the chosen one cannot be loaded: the best other candidate
    by the rule that chose (see the module); None where that is the base model. In a canary's place its learnware
    answers."""
    if choice.learnware_id is None:
        return None
    if choice.reason.endswith(CANARY):
        return learnware_of(choice.learnware_id)
    if not choice.reason.startswith(MATCHED):
        return None
    others = (one for one in choice.candidates if one.learnware_id != choice.learnware_id)
    good = (one.learnware_id for one in others if one.expected > choice.base and one.score >= choice.bound)
    return next(good, None)


class Selector:
    """Chooses over an immutable snapshot of specifications. To add or remove learnwares, make another one (`changed`,
    or a new one) and swap the reference: a request never sees half a change. Safe to use from several threads.

    Learnwares are numbered in the order in which they come; the numbers of those that are removed stay unused.
    """

    def __init__(
        self,
        learnwares: Sequence[Learnware],
        encoder: Encoder,
        settings: SelectionSettings,
        before: "Selector | None" = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Fits metric and task model to these learnwares. `before`, a selector of other learnwares, only makes it
        faster. `evidence` is what feedback says.

        Raises:
            InvalidSpecification: no learnware passes the filter, or one is of another encoder.
        """
        self._encoder = encoder
        self._settings = settings
        self._learnwares = self._admitted(learnwares)
        if not self._learnwares:
            raise InvalidSpecification(_NONE_PASSES)
        home = load_home()
        self.metric = _fit(self._learnwares, home, settings)
        self._numbers = {learnware.id: number for number, learnware in enumerate(self._learnwares)}
        self.index = SpecificationIndex([_projected(one, self.metric) for one in self._learnwares], settings.gamma)
        self._evidence = evidence
        self._fit_tasks(None if before is None else before._plain)  # noqa: SLF001 (an object of this very class)
        self._view_means = _view_means(self._learnwares, self.metric)

    def _fit_tasks(self, before: TaskModel | None) -> None:
        """Fits the task model of the learnwares' own tasks, and all that follows from it."""
        self._plain: TaskModel = TaskModel(self._learnwares, load_home(), before)
        self._tasks = self._plain
        self._use_evidence()

    def _use_evidence(self) -> None:
        """Fits the task model with the learnt tasks beside it, and ranks anew, with the evidence that there is."""
        learnt = learnt_sets(self._evidence, self._encoder)
        self._tasks = TaskModel(self._learnwares, load_home(), self._tasks, learnt) if learnt else self._plain
        gone = sorted(set(range(len(self._learnwares))) - set(self._numbers.values()))
        self._ranking = Ranking(self._learnwares, self._tasks.classes, self._tasks.home, self._evidence, gone)
        self._forms = Forms(self._learnwares, self._tasks)
        self._learnt = LearntTasks(self._tasks.classes, learnt, self._plain.classes)

    def taught(self, evidence: Evidence | None) -> "Selector":
        """Returns the selector for the same learnwares with this evidence instead of what it has. The metric and the
        index stay, so it takes a fit of the task model only, from where that was."""
        other = copy.copy(self)
        other._evidence = evidence  # noqa: SLF001 (an object of this very class)
        other._use_evidence()  # noqa: SLF001
        return other

    @property
    def evidence(self) -> Evidence | None:
        """The evidence from feedback in use; None without any."""
        return self._evidence

    def changed(self, added: Sequence[Learnware], removed: Collection[str]) -> "Selector":
        """Returns the selector for these learnwares without those of the ids `removed` and with those `added`, in time
        in proportion to the changes since the last new one. The metric stays as it was fitted.

        Raises:
            InvalidSpecification: no learnware is left, or one is of another encoder.
        """
        other = copy.copy(self)
        other._change(added, removed)  # noqa: SLF001 (an object of this very class)
        return other

    def __len__(self) -> int:
        """Number of learnwares among which it chooses."""
        return len(self._numbers)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the encoder whose vectors it chooses by."""
        return self._encoder.fingerprint

    @property
    def dim(self) -> int:
        """Length of the vectors that it chooses by."""
        return self._encoder.dim

    @property
    def changes(self) -> int:
        """Number of learnwares that came or went since the metric was fitted."""
        return self.index.changes

    def check_integrity(self) -> list[str]:
        """Returns everything that is wrong, in words; empty when the selector is whole."""
        problems = [f"index: {problem}" for problem in self.index.check_integrity()]
        if len(self.index) != len(self._numbers):
            problems.append(f"the index holds {len(self.index)} learnwares, {len(self._numbers)} have a number")
        wrong = [name for name, number in self._numbers.items() if self._learnwares[number].id != name]
        return problems + [f"learnware {name} has the number of another one" for name in wrong]

    def choose(self, text: str, top: int = 5) -> Choice:
        """Returns the choice for a request with this text, with up to `top` candidates. Never raises on odd text."""
        vector, form = self.embed(text), asked_form(text)
        chosen = self.choose_embedded(vector, top, form)
        return chosen._replace(read=ReadText(vector.astype(np.float16).tobytes(), form))

    def embed(self, text: str) -> NDArray[np.float32]:
        """Returns the text's vector, for `choose_embedded`: (dim,), unit norm."""
        return np.asarray(self._encoder.encode([text])[0])

    def choose_embedded(self, vector: NDArray[np.float32], top: int = 5, form: AnswerForm | None = None) -> Choice:
        """Returns the choice for a vector of `embed` and the form of answer that its text asks for."""
        nearest = self.index.search(self.metric.apply(vector), max(top, NEAREST))
        probabilities = self._believed(vector, nearest)
        if form is not None:
            probabilities = self._forms.applied(form, probabilities)
        return self._pick(nearest, probabilities, MATCHED, self._settings.min_match, top)

    def answers_in_sentences(self, learnware_id: str) -> bool:
        """Whether a learnware's specification says that it answers in free text, so that it can explain something."""
        number = self._numbers.get(learnware_id)
        answers = None if number is None else self._learnwares[number].specified.answers
        return answers is not None and answers.in_sentences

    def probabilities(self, vector: NDArray[np.float32]) -> Probabilities:
        """Returns the probability of every task and part of the home for a vector of `embed`."""
        return self._believed(vector, self.index.search(self.metric.apply(vector), NEAREST))

    def _believed(self, vector: NDArray[np.float32], nearest: Closeness) -> Probabilities:
        """Returns the probabilities of tasks, the learnt ones where their own points are the nearest. Elsewhere those
        of the model without any, so that no learnt task takes a request from a learnware that is nearer."""
        if self._tasks is self._plain:
            return self._plain.probabilities(vector, nearest)
        probabilities = self._tasks.probabilities(vector, nearest)
        if self._learnt.doubted(probabilities):
            owners = nearest.owners[:COMPARED]
            known = (self._learnwares[owner].specified.whole_set.points for owner in owners)
            believed = self._learnt.believed(vector, known, probabilities)
            if self._learnt.share(believed) > 0:
                return believed
        return self._learnt.without(self._plain.probabilities(vector, nearest))

    @property
    def encoder(self) -> Encoder:
        """The encoder of requests."""
        return self._encoder

    @property
    def learnwares(self) -> tuple[Learnware, ...]:
        """The learnwares among which it chooses, in the order of their numbers."""
        return tuple(self._learnwares[number] for number in self._numbers.values())

    def gains(self, vector: NDArray[np.float32], form: AnswerForm | None = None) -> NDArray[np.float64]:
        """Returns the expected gain over the base model for a vector of `embed`, in the order of `learnwares`."""
        probabilities = self.probabilities(vector)
        if form is not None:
            probabilities = self._forms.applied(form, probabilities)
        quality, _, base = self._ranking.expect(probabilities)
        return quality[list(self._numbers.values())] - base

    def nearness(self, vector: NDArray[np.float32], count: int) -> Closeness:
        """Returns the nearest learnwares, as numbers into `learnwares`, with their closeness (≤ 0)."""
        found = self.index.search(self.metric.apply(vector), count)
        places = {number: place for place, number in enumerate(self._numbers.values())}
        return Closeness(np.array([places[int(one)] for one in found.owners], np.int64), found.values)

    def choose_task(self, mean: NDArray[np.float32], noise: float = 0.0, top: int = 5) -> Choice:
        """Returns the choice for a whole task, given by the mean of its rows' vectors (dim,), which bears noise of this
        standard deviation in every coordinate.

        Log-odds are linear, so those of the mean are the rows' mean log-odds; the noise in them makes the probabilities
        less sharp, and much noise raises the bound (`SelectionSettings.task_bound`). Nearness is the distance to the
        nearest of a learnware's views' means.
        """
        x = self.metric.apply(mean)
        means = self._view_means
        squares = ((means.points - x) ** 2).sum(1, dtype=np.float64)
        closeness = -np.minimum.reduceat(squares, means.starts[:-1]) / 2
        numbers = np.fromiter(self._numbers.values(), np.int64)
        order = numbers[np.argsort(-closeness[numbers], kind="stable")[: max(top, NEAREST)]]
        nearest = Closeness(order, closeness[order])
        probabilities = self._tasks.probabilities(mean, nearest, noise**2)
        return self._pick(nearest, probabilities, TASK, self._settings.task_bound(noise), top)

    def _pick(self, nearest: Closeness, probabilities: Probabilities, reason: str, bound: float, top: int) -> Choice:
        """Applies the rule in this module's docstring."""
        best = self._ranking.best(probabilities, nearest, top)
        qualities = np.maximum(1 - (best.qualities[0] - best.qualities), 0.0)
        candidates = tuple(
            Candidate(
                self._learnwares[owner].id,
                float(match),
                0.0 if reason == TASK else float(quality),  # a task keeps its learnware: none replaces it
                float(expected),
            )
            for owner, match, quality, expected in zip(
                best.owners, best.matches, qualities, best.qualities, strict=True
            )
        )
        refused = BASE_BETTER if best.qualities[0] <= best.base else None
        if best.matches[0] < bound:
            refused = LOW_CONFIDENCE
        chosen = candidates[0].learnware_id if refused is None else None
        return Choice(
            chosen,
            candidates[0].score,
            best.at_least_base,
            refused or reason,
            candidates,
            best.base,
            self._likeliest(probabilities, top),
            bound,
        )

    def _likeliest(self, probabilities: Probabilities, top: int) -> tuple[tuple[str, float], ...]:
        tasks = probabilities.tasks
        count = min(top, len(tasks))
        best = np.argpartition(-tasks, count - 1)[:count]
        named = [(self._tasks.classes[number], float(tasks[number])) for number in best]
        named += [(f"base:{name}", float(p)) for name, p in zip(self._tasks.home, probabilities.home, strict=True)]
        return tuple(sorted(named, key=lambda pair: -pair[1])[:top])

    def _change(self, added: Sequence[Learnware], removed: Collection[str]) -> None:
        admitted = self._admitted(added)
        gone = [self._numbers[learnware_id] for learnware_id in removed if learnware_id in self._numbers]
        if len(self._numbers) == len(gone) and not admitted:
            raise InvalidSpecification(_NONE_PASSES)
        first = len(self._learnwares)
        self._numbers = dict(self._numbers)
        for number in gone:
            del self._numbers[self._learnwares[number].id]
        self._numbers |= {learnware.id: number for number, learnware in enumerate(admitted, first)}
        self._learnwares += admitted
        self.index = self.index.changed([_projected(one, self.metric) for one in admitted], gone)
        with_learnt = self._tasks is not self._plain
        self._plain = self._plain.changed(admitted, self._learnwares)
        self._tasks = self._tasks.changed(admitted, self._learnwares) if with_learnt else self._plain
        self._ranking = self._ranking.changed(admitted, gone, self._tasks.classes)
        self._forms = Forms(self._learnwares, self._tasks)
        learnt = learnt_sets(self._evidence, self._encoder)
        self._learnt = LearntTasks(self._tasks.classes, learnt, self._plain.classes)
        if admitted:
            self._view_means = joined(self._view_means, _view_means(admitted, self.metric))

    def _admitted(self, learnwares: Sequence[Learnware]) -> tuple[Learnware, ...]:
        """Returns the learnwares that may be chosen. Raises InvalidSpecification when one of them is of another
        encoder."""
        kept = tuple(learnware for learnware in learnwares if _passes(learnware, self._settings))
        for learnware in kept:
            if learnware.specified.encoder_id != self._encoder.id:
                raise InvalidSpecification(
                    f"learnware {learnware.id} was specified with encoder {learnware.specified.encoder_id!r}; "
                    f"this router uses {self._encoder.id!r}"
                )
        return kept


def learnt_sets(evidence: Evidence | None, encoder: Encoder) -> dict[str, ReducedSet]:
    """Returns the learnt tasks' points by name: none where another encoder made them."""
    if evidence is None or evidence.encoder != encoder.fingerprint:
        return {}
    return {task.name: task.reduced for task in evidence.tasks}


def _passes(learnware: Learnware, settings: SelectionSettings) -> bool:
    """Whether a learnware has a specification and passes the filter of the settings."""
    if learnware.specification is None:
        return False
    languages, domains = settings.languages, settings.domains
    speaks = not languages or bool(set(languages) & set(learnware.languages))
    return speaks and (not domains or learnware.domain in domains)


def _fit(learnwares: Sequence[Learnware], home: Home, settings: SelectionSettings) -> Metric:
    classes = [
        [ReducedSet(view.points, view.weights) for view in learnware.specified.views] for learnware in learnwares
    ]
    return fit_metric(classes, home.sets[EVERYDAY], settings.shrinkage, settings.rank)


def _projected(learnware: Learnware, metric: Metric) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    reduced = learnware.specified.whole_set
    return metric.apply(reduced.points), reduced.weights


def _view_means(learnwares: Sequence[Learnware], metric: Metric) -> PointStack:
    """Returns the weighted mean of each view's points in the metric's space, by learnware."""
    views = [learnware.specified.views for learnware in learnwares]
    means = [view.weights @ view.points / view.weights.sum() for of_one in views for view in of_one]
    starts = np.concatenate([[0], np.cumsum([len(of_one) for of_one in views])])
    return PointStack(metric.apply(rows_of(means).astype(np.float32)), np.zeros(len(means), np.float32), starts)
