"""A measured market replayed: feedback comes piece by piece, and what the rule then chooses is looked up in the matrix.

Every task here has no learnware of its own on the market. Its first rows give feedback, its other rows judge: they are
never told. Pieces of all tasks come in turn, dealt to tenants in turn, one every `PIECE_S`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.scores import BASE, TaskScores
from router.exploring import explored
from router.selection import Selector
from serving.feedback.learner import LearningSettings, learn
from serving.feedback.pieces import Gain, Piece, gains_of
from specs.answers.form import AnswerForm
from specs.evidence import Evidence

PIECE_S = 60.0
"""Seconds between two pieces of feedback: little is forgotten while a replay lasts."""
LIKELIHOOD_ROUNDING = 0.01
"""Difference of a probability that half-precision numbers explain."""
ROUND = 5
"""Pieces of each task between two times that the learner runs, where what is chosen decides what is learnt."""

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class ReplayTask:
    """A task's rows: vectors (n, dim) and asked forms, and what every measured system makes of each."""

    name: str
    vectors: Matrix
    forms: tuple[AnswerForm | None, ...]
    scores: TaskScores
    feedback_rows: int

    @property
    def judging(self) -> range:
        """Numbers of the rows that judge."""
        return range(self.feedback_rows, len(self.vectors))

    def quality(self, system: str | None) -> NDArray[np.float64]:
        """Returns whether a system (None: the base model) answers each row right; a learnware that was not measured
        counts as the worst one of the task."""
        right = self.scores.right
        name = system or BASE
        if name not in right:
            judged = list(self.judging)
            name = min((one for one in right if one != BASE), key=lambda one: float(right[one][judged].mean()))
        return right[name].astype(float)

    def measured(self, row: int) -> dict[str, dict[str, float | bool]]:
        """Returns what feedback with the right answer tells of one row, once it was scored under the candidates. A
        probability that is not the likelihood itself is one among answers to choose from, which the requests name."""
        scores = self.scores
        named = bool(np.abs(scores.among[BASE] - np.exp(scores.gold[BASE])).max() > LIKELIHOOD_ROUNDING)
        return {
            name: {
                "right": bool(scores.right[name][row]),
                "gold": float(scores.gold[name][row]),
                "among": float(scores.among[name][row]),
                "choices": 2 if named else 0,
            }
            for name in scores.right
        }


class Reached(NamedTuple):
    """The mean accuracy on a task's judging rows: of the choice, of a random candidate, of the best candidate, and of
    the base model; and the share of rows that went to a learnware that was not measured there."""

    chosen: float
    random: float
    oracle: float
    base: float
    unmeasured: float


Teller = Callable[[ReplayTask, int, str, Selector], Piece]
"""Makes the piece of feedback on a row of a task, by this tenant, who sees what this selector chooses."""


def reached(task: ReplayTask, selector: Selector) -> Reached:
    """Returns what a selector reaches on the rows that judge."""
    rows = list(task.judging)
    chosen = [selector.choose_embedded(task.vectors[row], 5, task.forms[row]).learnware_id for row in rows]
    values = [task.quality(system)[row] for system, row in zip(chosen, rows, strict=True)]
    candidates = [float(right[rows].mean()) for name, right in task.scores.right.items() if name != BASE]
    base = float(task.scores.right[BASE][rows].mean())
    unmeasured = np.mean([(system or BASE) not in task.scores.right for system in chosen])
    oracle = max([*candidates, base])
    return Reached(float(np.mean(values)), float(np.mean(candidates)), oracle, base, float(unmeasured))


def way(found: Mapping[str, Reached]) -> float:
    """Returns the way from random to the oracle: both differences summed over the tasks, then divided, so that a task
    where all candidates are alike does not decide."""
    gained = sum(one.chosen - one.random for one in found.values())
    whole = sum(one.oracle - one.random for one in found.values())
    return gained / whole


def right_answers(task: ReplayTask, row: int, tenant: str, selector: Selector) -> Piece:
    """Feedback with the right answer, scored under every candidate."""
    del selector
    measured = task.measured(row)
    return Piece(tenant, 0.0, task.vectors[row], gains=gains_of(measured), base=float(measured[BASE]["among"]))


def scores_alone(explore: float) -> Teller:
    """Feedback that says only whether the answer was right, of whoever answered; `explore` as in the configuration."""

    def tell(task: ReplayTask, row: int, tenant: str, selector: Selector) -> Piece:
        choice = selector.choose_embedded(task.vectors[row], 5, task.forms[row])
        choice = explored(choice, f"{task.name} {row}", explore, selector.evidence)
        system = choice.learnware_id
        return Piece(tenant, 0.0, task.vectors[row], system, score=float(task.quality(system)[row]))

    return tell


def lying(tell: Teller, liars: frozenset[str]) -> Teller:
    """Feedback in which these tenants tell the opposite, every time."""

    def told(task: ReplayTask, row: int, tenant: str, selector: Selector) -> Piece:
        piece = tell(task, row, tenant, selector)
        if tenant not in liars:
            return piece
        gains = {name: Gain(-gain.value, not gain.at_least_base, gain.version) for name, gain in piece.gains.items()}
        return replace(piece, gains=gains, score=None if piece.score is None else 1 - piece.score)

    return told


def replay(
    tasks: Sequence[ReplayTask],
    selector: Selector,
    settings: LearningSettings,
    tell: Teller,
    steps: Sequence[int],
    tenants: Sequence[str],
    approve: bool,
) -> Iterator[tuple[int, Selector]]:
    """Gives feedback in rounds, and yields at every step of `steps` the number of pieces of each task and the selector
    that has learnt from them. With `approve` an operator approves every change that is held."""
    pieces: list[Piece] = []
    evidence: Evidence | None = None
    now, taught = 0.0, selector
    for count in range(max(steps) + 1):
        if count in steps or count % ROUND == 0:
            if pieces:
                evidence = learn(pieces, selector, settings, now, evidence)
                if approve and evidence.held:
                    evidence = evidence.approving(evidence.held, evidence.number, now)
                taught = taught.taught(evidence)  # from where the fit before was
            if count in steps:
                yield count, taught
        if count == max(steps):
            break
        for place, task in enumerate(tasks):
            if count < task.feedback_rows:
                # each tenant tells of every task, one after another
                piece = tell(task, count, tenants[(count + place) % len(tenants)], taught)
                pieces.append(replace(piece, time=now))
                now += PIECE_S
