"""Evidence on a canary beside its learnware, as differences in [-1, 1] (canary less learnware).

Counted are requests that the choice gave to the learnware since the canary is there: by their ids a share of them went
to the canary, so both answer requests of one kind. Requests that name their model are left out.

- Feedback: scores of the canary's own answers and of the learnware's own, which are other requests. Each tenant's are
  compared with one another, since some judge more strictly than others, in blocks in the order of time: a block ends as
  soon as it has scores of both. So neither a slow change of the traffic nor of what tenants expect counts.
- Right answers and the judge: both have answered the same request, and the difference is 1, 0 or -1.

A request counts once: by its right answer, else by feedback, else by the judge. Otherwise what is known of it twice
would count for two requests.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from serving.evaluation.betting import Value

LABELS: Mapping[Any, float] = {"right": 1.0, "wrong": 0.0}
"""Scores that the labels of feedback stand for."""
FAILED_FROM = 500
"""HTTP status from which an answer counts as failed."""
REFUSED_FROM = 400
"""HTTP status from which a request was refused for a fault of the client's, so that nobody answered it."""
NAMED = "named"
"""Beginning of the reasons of requests that name their model (`router.choice.NAMED`)."""
NOT_LOADED = "base:not-loaded"
"""Reason of the base model's answer where the adapter could not be loaded."""
NEXT = ":next"
"""Ending of the reason where the next best answers, since the adapter could not be loaded."""
STAND_IN = ":resident"
"""Part of the reason where another learnware than the chosen one answers, since it is nearer."""
CANARY = ":canary"
"""Part of the reason of a request that was drawn for the canary."""

Request = tuple[str, str]
"""A request: its tenant, and its id."""


class Answer(NamedTuple):
    """One answer of the canary or of the learnware, to a request that was chosen for the learnware."""

    request: Request
    time: float
    canary: bool
    failed: bool
    score: float | None = None
    """The score that feedback gives, from 0 to 1."""
    by: str = ""
    """The tenant that gave it."""


class Compared(NamedTuple):
    """Two answers to one request. Verdicts are 1 where the canary's is better, 0 and -1; None: there is none."""

    request: Request
    reference: float | None
    judge: float | None
    unjudged: bool
    """Whether the judge was asked and gave no verdict."""


class Evidence(NamedTuple):
    """Everything that is known of a canary."""

    answers: tuple[Answer, ...]
    compared: tuple[Compared, ...]

    @property
    def judged(self) -> int:
        """Number of comparisons with a verdict of the judge."""
        return sum(one.judge is not None for one in self.compared)

    @property
    def unjudged(self) -> int:
        """Number of comparisons on which the judge was asked in vain."""
        return sum(one.unjudged for one in self.compared)

    @property
    def failures(self) -> list[Value]:
        """The differences of failures: 1 where the canary failed and the learnware did not."""
        return blocks((one.request[0], one.time, one.canary, float(one.failed)) for one in self.answers)

    def scores(self, *, canary: bool) -> list[float]:
        """Returns the scores of feedback of one of the two."""
        return [one.score for one in self.answers if one.canary == canary and one.score is not None]

    def values(self, most_unjudged: float) -> list[Value]:
        """Returns the differences of quality, each request counted once; without the judge's where it gave no verdict
        on more than this share of what it was asked."""
        known = {
            one.request: Value(one.request[0], one.reference) for one in self.compared if one.reference is not None
        }
        scored = [one for one in self.answers if one.score is not None and one.request not in known]
        feedback = feedback_values(scored)
        if self.unjudged <= most_unjudged * (self.judged + self.unjudged):
            taken = {one.request for one in scored}
            known |= {
                one.request: Value(one.request[0], one.judge)
                for one in self.compared
                if one.judge is not None and one.request not in taken and one.request not in known
            }
        return [*known.values(), *feedback]


def feedback_values(answers: Iterable[Answer]) -> list[Value]:
    """Returns the differences of the scores of feedback."""
    return blocks((one.by, one.time, one.canary, one.score) for one in answers if one.score is not None)


def blocks(scores: Iterable[tuple[str, float, bool, float]]) -> list[Value]:
    """Returns the differences of means, canary less learnware, over blocks of scores in the order of time.

    Args:
        scores: source, time, whether the score is the canary's, and the score from 0 to 1.
    """
    open_blocks: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    found = []
    for source, _, canary, score in sorted(scores):
        sides = open_blocks[source]
        sides[canary].append(score)
        if all(sides):
            current, own = (sum(side) / len(side) for side in sides)
            found.append(Value(source, own - current))
            del open_blocks[source]
    return found


def score_of(pieces: Sequence[Mapping[str, Any]]) -> tuple[float | None, str]:
    """Returns the score that the last piece of feedback with one gives an answer, and the tenant that gave it."""
    for piece in reversed(pieces):
        score = LABELS.get(piece.get("label"), piece.get("score"))
        if score is not None:
            return min(max(float(score), 0.0), 1.0), str(piece.get("tenant") or "")
    return None, ""


def answers_in(rows: Iterable[Mapping[str, Any]], learnware: str, canary: str, version: str) -> list[Answer]:
    """Returns the answers in records that tell something of a canary or its learnware, in any order.

    Left out are requests that named their model, or were chosen for another; answers of a stand-in; what another
    version of the canary answered; and what was refused, or ended when the client hung up. Of the learnware only
    choices of kinds count that the canary gets some of (`matched`, `task`): if follow-up turns never go to it, they
    are no match.

    Args:
        rows: records with `tenant`, `id`, `time`, `learnware`, `version`, `reason`, `status`, `feedback`, and of the
            choice `chosen` and `choice_reason`, both None where the router's half is not there.
        learnware: the learnware's id.
        canary: the canary's id.
        version: the engine name of the canary's version.
    """
    found: list[tuple[str, Answer]] = []
    for row in rows:
        reason, choice_reason = str(row["reason"] or ""), str(row["choice_reason"] or "")
        chosen = row["chosen"] if row["choice_reason"] is not None else row["learnware"]
        if row["status"] is None or reason.startswith(NAMED) or chosen not in (learnware, canary):
            continue
        if STAND_IN in reason or STAND_IN in choice_reason:
            continue
        drawn = CANARY in reason or CANARY in choice_reason
        answer = _answer(row, reason, drawn, version) if drawn else _answer(row, reason, drawn, None)
        if answer is not None:
            found.append(((choice_reason or reason).partition(":")[0], answer))
    kinds = {kind for kind, answer in found if answer.canary}
    return [answer for kind, answer in found if kind in kinds]


def _answer(row: Mapping[str, Any], reason: str, drawn: bool, version: str | None) -> Answer | None:
    request = (str(row["tenant"]), str(row["id"]))
    lost = reason == NOT_LOADED or reason.endswith(NEXT)
    if not lost and version is not None and row["version"] != version:
        return None
    if lost:
        return Answer(request, row["time"], drawn, failed=True)
    if row["status"] >= FAILED_FROM:
        return Answer(request, row["time"], drawn, failed=True)
    if row["status"] >= REFUSED_FROM:
        return None
    score, by = score_of(row["feedback"])
    return Answer(request, row["time"], drawn, False, score, by)
