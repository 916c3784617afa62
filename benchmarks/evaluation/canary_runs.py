"""One canary from its start to its end: requests come one by one, and the very rule that serves looks now and then."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.scores import Right
from serving.evaluation.betting import Value
from serving.evaluation.canary_rule import RuleSettings, decide
from serving.evaluation.evidence import Answer, Compared, Evidence

TENANTS = 10
"""Tenants that send requests and give feedback, each as often as another."""
LIAR = 0
"""The tenant that lies, where one does."""
LOOK_EVERY, LATER = 10, 40
"""Answers of the canary between two looks of the rule, on average: at first, and after `EARLY` of them, when looks take
longer. On a busy learnware ten come in less than a minute."""
EARLY = 100
MOST_REQUESTS = 40_000
"""Requests after which a canary is left undecided."""
WRONG_ALIKE = 0.5
"""Share of requests which two models get wrong on which they say the same wrong thing."""


class Unfailing(Evidence):
    """Evidence of answers none of which failed, so that this need not be found out at each look."""

    @property
    def failures(self) -> list[Value]:
        """No differences."""
        return []


Models = Callable[[np.random.Generator, int], "tuple[Right, Right]"]
"""Draws requests; says of each whether the learnware and the canary answer it right."""


class Known(NamedTuple):
    """The sources of a run: the share of answers with feedback (right or wrong), that of requests that both answer, how
    often the judge is wrong about one order, and how often it names the first place whatever stands there."""

    feedback: float = 0.0
    both: float = 0.0
    judge_error: float | None = None
    judge_bias: float = 0.0
    right_answers: bool = False
    """Whether requests that both answer get the right answer as feedback."""
    liar: bool = False
    """Whether one tenant says of each answer of the canary the opposite of the truth, and of the others that truth."""


class Outcome(NamedTuple):
    """How a run ended: what was done, after how many of the canary's answers, and the share of all requests until then
    that the canary answered wrong. Afterwards there is none: it is no candidate any more, which the tests show."""

    action: str
    answers: int
    wrong: float


def drawn(current: float, canary: float) -> Models:
    """Returns models that are right with these probabilities, independently of each other."""

    def draw(generator: np.random.Generator, count: int) -> tuple[Right, Right]:
        return generator.random(count) < current, generator.random(count) < canary

    return draw


def measured(current: Right, canary: Right) -> Models:
    """Returns models of which it was measured which rows they answer right; requests are rows drawn at random."""

    def draw(generator: np.random.Generator, count: int) -> tuple[Right, Right]:
        rows = generator.integers(0, len(current), count)
        return current[rows], canary[rows]

    return draw


def run(
    models: Models, known: Known, share: float, settings: RuleSettings, seed: int, most: int = MOST_REQUESTS
) -> Outcome:
    """Runs one canary with this share of the requests until the rule decides, or `most` requests came. Nothing fails
    here, so answers of which nothing is known are not even kept."""
    generator = np.random.default_rng(seed)
    answers: list[Answer] = []
    compared: list[Compared] = []
    wrong = of_canary = came = 0
    action = "wait"
    while action == "wait" and came < most:
        step = max(1, round((LOOK_EVERY if of_canary < EARLY else LATER) / share))
        current, canary = models(generator, step)
        chance: NDArray[np.float64] = generator.random((step, 3))
        tenants = generator.integers(0, TENANTS, step)
        for number in range(step):
            own, tenant = bool(chance[number, 0] < share), int(tenants[number])
            right = bool(canary[number] if own else current[number])
            of_canary, wrong = of_canary + own, wrong + (own and not right)
            came += 1
            request = (str(tenant), str(came))
            told = right != (known.liar and own and tenant == LIAR)
            if chance[number, 1] < known.feedback:
                answers.append(Answer(request, float(came), own, False, float(told), str(tenant)))
            if chance[number, 2] < known.both:
                compared.append(_compared(generator, request, bool(current[number]), bool(canary[number]), known))
        action = decide(Unfailing(tuple(answers), tuple(compared)), settings).action
    return Outcome(action, of_canary, wrong / came)


def _compared(
    generator: np.random.Generator, request: tuple[str, str], current: bool, canary: bool, known: Known
) -> Compared:
    reference = float(canary) - float(current) if known.right_answers else None
    judge = None
    if known.judge_error is not None:
        judge = _judged(generator, current, canary, known.judge_error, known.judge_bias)
    return Compared(request, reference, judge, unjudged=False)


def _judged(generator: np.random.Generator, current: bool, canary: bool, error: float, bias: float) -> float:
    """Returns the verdict of a judge that is asked in both orders. Right answers say the same, as labels do."""
    if current == canary and (current or generator.random() < WRONG_ALIKE):
        return 0.0
    votes = 0.0
    for place in (1.0, -1.0):  # the vote for the canary where it stands first, and where it stands second
        if generator.random() < bias:
            votes += place
        elif current == canary:
            votes += generator.choice([1.0, -1.0])
        else:
            votes += (1.0 if canary else -1.0) * (-1.0 if generator.random() < error else 1.0)
    return votes / 2 if abs(votes) == 2 else 0.0
