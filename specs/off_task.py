"""The effect of a learnware on off-task requests, measured beside the base model.

Two numbers for each kind of request. `drift`: the mean log-likelihood a token (nats) that the adapter gives the base
model's own greedy answers, less the base's; 0 where it keeps the base, below 0 where it would say something else.
`degenerate`: how many of its answers no one can use (`specs.answers.degenerate`) where the base's can be used. Both
come with their intervals, and are turned into one number, `OffTaskScore.loss`: the expected loss against the base model
in probability, the unit in which gains on a learnware's own tasks are measured (`router.ranking`).

Everybody measures on the same prompts, the first ones of the project's own (`specs.prompts`) by the order of their
hashes, so that scores can be compared; of the half that training does not rehearse, so that nobody is measured on what
it was trained on.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from specs.answers.degenerate import is_degenerate_beside
from specs.prompts import MEASURED, domain_questions, everyday_prompts, half, other_asks


class Kind(StrEnum):
    """Kinds of off-task requests."""

    EVERYDAY = "everyday"
    """Everyday prompts: chat, writing, code, general knowledge."""
    DOMAIN = "domain"
    """Free questions of the learnware's own domain, or of all domains where the project has none of its own domain."""
    MATERIAL = "material"
    """Another ask (translate, summarise, explain …) about the requests that the card gives as examples."""


PROMPTS = {Kind.EVERYDAY: 40, Kind.DOMAIN: 40, Kind.MATERIAL: 12}
"""Number of prompts that are measured, by kind: as many as a quarter of a minute allows with a 135M base on one core.
Wilson's interval of one degenerate answer in 40 ends at 13 %, that of eight begins at 10 %; the share of a learnware
that labels, on its own material, is near 1."""
MAX_TOKENS = 32
"""The longest measured answer in tokens, enough to see a repeated phrase, or a label in the place of a sentence."""
LONGEST_PROMPT = 160
"""The longest measured prompt in characters, to save time: it is read, and its answer scored, for every learnware."""

Z = 1.96
"""Standard normal quantile of two-sided 95 % intervals."""
PRIOR_DEGENERATE = (0.5, 0.5)
"""Degenerate and sound answers that are added to those counted (Jeffreys' prior). Where nothing was counted the share
is then a half: of four labelling adapters trained without the base's answers 52 to 83 % of the answers to everyday
prompts and questions of their domain were degenerate, and 69 to 94 % of those to other asks on their material; adapters
trained beside the base's answers have few, but nobody can tell which an unmeasured one is."""
PRIOR_DRIFT = (-1.0, 2.0)
"""Prior mean of the drift, that of learnwares trained without the base's answers, in nats a token, and the number of
prompts that it counts for."""
LIKELIHOOD_WEIGHT = 0.2
"""Probability that one nat of mean log-likelihood counts as, here and for gains on tasks (`router.ranking`). It was
chosen on probe rows alone: one half of them ranked and the other half judged, and tasks were left out in turn."""


class Interval(NamedTuple):
    """An estimate with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class OffTaskScore:
    """Scores on off-task requests of one kind: the number of prompts, the mean drift over them (nats a token) with its
    standard error, and the number of degenerate answers where the base model's is not."""

    prompts: int
    drift: float
    drift_error: float
    degenerate: int

    @property
    def degenerate_share(self) -> Interval:
        """The share of degenerate answers, shrunk by `PRIOR_DEGENERATE`, with Wilson's interval."""
        bad, good = PRIOR_DEGENERATE
        n, share = self.prompts, self.degenerate / self.prompts
        centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
        mean = (self.degenerate + bad) / (n + bad + good)
        return Interval(mean, min(max(centre - half, 0.0), mean), max(min(centre + half, 1.0), mean))

    @property
    def drift_interval(self) -> Interval:
        """The drift in nats a token, shrunk by `PRIOR_DRIFT`; its interval is the normal one around the measured
        mean."""
        prior, weight = PRIOR_DRIFT
        mean = (self.prompts * self.drift + weight * prior) / (self.prompts + weight)
        half = Z * self.drift_error
        return Interval(mean, min(self.drift - half, mean), max(self.drift + half, mean))

    @property
    def loss(self) -> float:
        """The expected loss against the base model, in probability (0 to 1): a degenerate answer loses all, any other
        answer what its drift costs."""
        return _loss(self.degenerate_share.mean, self.drift_interval.mean)


def _loss(share: float, drift: float) -> float:
    return share + (1 - share) * min(1.0, LIKELIHOOD_WEIGHT * max(0.0, -drift))


UNMEASURED_LOSS = _loss(PRIOR_DEGENERATE[0] / sum(PRIOR_DEGENERATE), PRIOR_DRIFT[0])
"""The loss that a learnware is taken to have on a kind of requests that was not measured, 0.6 by the two priors."""


class Answered(NamedTuple):
    """One prompt's answers by the learnware and the base model, and how much less likely the learnware finds the base
    model's answer: `log_ratio` is the difference of the log-likelihoods (nats, mostly below 0) over `tokens` of its
    tokens."""

    own: str
    base: str
    log_ratio: float
    tokens: int


def score(answered: Sequence[Answered], labels: Collection[str] = ()) -> OffTaskScore:
    """Scores the answers to prompts of one kind; `labels` are those that the learnware answers its own task with.

    The drift is the ratio of two sums over all prompts, so each token counts alike; its standard error is the ratio
    estimator's.

    Raises:
        ValueError: there is no answer.
    """
    if not answered:
        raise ValueError("no answers, no score")
    n, tokens = len(answered), sum(one.tokens for one in answered)
    drift = sum(one.log_ratio for one in answered) / tokens if tokens else 0.0
    residuals = sum((one.log_ratio - drift * one.tokens) ** 2 for one in answered)
    error = math.sqrt(residuals * n / (n - 1)) / tokens if tokens and n > 1 else 0.0
    bad = sum(is_degenerate_beside(one.own, one.base, labels) for one in answered)
    return OffTaskScore(n, drift, error, bad)


def off_task_prompts(
    domain: str, examples: Sequence[str] = (), counts: Mapping[Kind, int] = PROMPTS
) -> dict[Kind, tuple[str, ...]]:
    """Returns the prompts on which a learnware of this domain is measured, by kind; kinds without prompts are left out.
    `examples` are those of its card."""
    questions = domain_questions()
    of_domain = questions.get(domain) or tuple(one for some in questions.values() for one in some)
    material = _first(examples, counts[Kind.MATERIAL])
    asks = _first(half(other_asks("before"), MEASURED), len(material))
    found = {
        Kind.EVERYDAY: _first(half(everyday_prompts(), MEASURED), counts[Kind.EVERYDAY]),
        Kind.DOMAIN: _first(half(of_domain, MEASURED), counts[Kind.DOMAIN]),
        Kind.MATERIAL: tuple(f"{ask}\n{example}" for ask, example in zip(asks, material, strict=False)),
    }
    return {kind: prompts for kind, prompts in found.items() if prompts}


def _first(texts: Sequence[str], count: int) -> tuple[str, ...]:
    """Returns the first `count` short texts in the order of their hashes: drawn at random, and the same ones every
    time, whatever texts come or go beside them."""
    short = {text for text in texts if len(text) <= LONGEST_PROMPT}
    return tuple(sorted(short, key=lambda text: hashlib.sha256(text.encode()).digest())[:count])
