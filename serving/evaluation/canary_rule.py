"""The rule by which a canary is promoted or rolled back.

What is compared is the difference of quality, canary less learnware, from -1 to 1 (`serving.evaluation.evidence`): of
feedback a score of one beside the mean score of the other by the same tenant, of right answers and of the judge 1, 0 or
-1. From these comes an interval that holds at all looks at once (`serving.evaluation.betting`), for the rule looks
every minute. With the four settings of the section `canary`, in this order:

1. Rolled back when the canary fails more often than the learnware (status 500 and above, an adapter that could not be
   loaded), or its whole interval of quality is below 0. No count of answers is waited for: harm ends as early as it can
   be known.
2. Promoted when the whole interval is above -`margin`, at least `least_answers` were compared, and it fails no more
   often by half of `margin`. Some requests come at few times of a day, and a quick start tells of the first only.
3. After `most_answers` compared ones the mean decides, between none and `margin` worse: promoted from half of it on.
   A canary should not stay for ever for a difference that nobody would notice. Where two models are right half of the
   time and seldom on the same requests, the mean of 800 differences has a standard error of 0.025: half of a margin of
   0.1 is two of them, so that either mistake is made in one case of forty.

Without anything to compare, failures alone count: it may be rolled back and is never promoted. A judge that often
gives no verdict is not believed, since what is left are the requests on which both say the same.

An equal canary is rolled back wrongly by 1 in at most 5 % of all cases (2.5 % each for quality and failures), and one
that is worse by `margin` is promoted wrongly by 2 in at most 2.5 %, plus what 3 adds; `python -m benchmarks.evaluation`
measures both.
"""

from typing import Literal, NamedTuple, Protocol

from serving.evaluation.betting import LEVEL, Bounds, bounds, evidence_above, evidence_below
from serving.evaluation.evidence import Evidence

Verdict = Literal["waiting", "better", "equal", "worse"]
Action = Literal["wait", "promote", "roll back"]

MOST_UNJUDGED = 0.2
"""Share of comparisons without a verdict above which the judge is not believed."""


class RuleSettings(Protocol):
    """The rule's bounds; the configuration's section `canary` is one."""

    @property
    def least_answers(self) -> int:
        """Compared answers below which a canary is not promoted."""

    @property
    def most_answers(self) -> int:
        """Compared answers after which the mean decides."""

    @property
    def margin(self) -> float:
        """Loss of quality that a canary is tested for."""


class Decision(NamedTuple):
    """A decision on a canary: what is to be done, what is known, and why, in a sentence; the difference of quality with
    its interval, and that of the shares of failed answers."""

    action: Action
    verdict: Verdict
    why: str
    quality: Bounds
    failures: Bounds


def decide(evidence: Evidence, settings: RuleSettings) -> Decision:
    """Applies the rule to what is known of a canary."""
    values, failed = evidence.values(MOST_UNJUDGED), evidence.failures
    quality, failures = bounds(values), bounds(failed)
    compared, margin = len(values), settings.margin
    enough = 1 / LEVEL

    def found(action: Action, verdict: Verdict, why: str) -> Decision:
        return Decision(action, verdict, why, quality, failures)

    if evidence_above(failed, 0.0) >= enough:
        return found("roll back", "worse", f"It fails more often, by {failures.mean:.1%} of its answers.")
    said = f"The difference of quality is {quality.mean:+.3f} ({quality.low:+.3f} to {quality.high:+.3f}) after "
    said += f"{compared} compared answers"
    if evidence_below(values, 0.0) >= enough:
        return found("roll back", "worse", f"{said}: it is worse.")
    if not values:
        return found("wait", "waiting", _nothing(evidence))
    fails_as_rarely = failures.mean <= margin / 2
    verdict: Verdict = "better" if evidence_above(values, 0.0) >= enough else "equal"
    if compared >= settings.least_answers and fails_as_rarely and evidence_above(values, -margin) >= enough:
        least = "it is better" if verdict == "better" else f"it is not worse by {margin:g}"
        return found("promote", verdict, f"{said}: {least}.")
    if compared >= settings.most_answers:
        if quality.mean >= -margin / 2 and fails_as_rarely:
            return found("promote", "equal", f"{said}, the most: the mean decides.")
        return found("roll back", "worse", f"{said}, the most: the mean decides, or that it fails more often.")
    return found("wait", "waiting", f"{said}; that does not tell yet.")


def _nothing(evidence: Evidence) -> str:
    if evidence.unjudged:
        return (
            f"The judge gave no verdict on {evidence.unjudged} of {evidence.unjudged + evidence.judged} comparisons: "
            "it is not believed, and nothing else is known. Only failures count, and it is not promoted by itself."
        )
    return (
        "No feedback, right answer or judge has compared its answers yet. Until one does, only failures count, and it "
        "is not promoted by itself."
    )
