"""The posterior of the learnwares' gains on one task, from right answers and from scores together.

Unknown are the base model's quality b on the task and the learnwares' gains δ_i over it; a learnware's quality is
b + δ_i. Both are normal before feedback:

    b ~ N(b₀, s_b²)        δ_i | b ~ N(p_i - r (b - b₀), s²)

with p_i the gain that the choice expects without feedback, and r the share by which learnwares do better, beside the
base model, where that does badly: a learnware that answers with labels cannot lose what the base model does not have.
A right answer scored under a learnware and the base model observes δ_i; a score of an answer observes b + δ_i, or b
where the base model answered. All is linear and normal, so the posterior is the solution of one small linear system.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.ranking import BASE_UNMEASURED, SHRINKAGE_ROWS
from serving.feedback.robust import Mean

PIECE_VARIANCE = 0.2
"""Variance of what one piece says of a quality: right or wrong, at a quality of 0.3 or 0.7."""
GAIN_VARIANCE = PIECE_VARIANCE / SHRINKAGE_ROWS
"""s²: the prior counts for as many pieces as the router shrinks probes by (a standard deviation of 0.22)."""
BASE_VARIANCE = 0.06
"""s_b²: the base model's qualities on tasks differ by a standard deviation of about 0.2."""
REGRESSION = 0.5
"""r: over the tasks of a measured market, learnwares that were not made for a task gain about half of what the base
model is worse there than on average."""


class Expected(NamedTuple):
    """The base model's quality, and the gains by learnware."""

    base: float
    gains: dict[str, float]


def posterior(
    prior: Mapping[str, float],
    gains: Mapping[str, Mean],
    scores: Mapping[str | None, Mean],
    base: float = BASE_UNMEASURED,
) -> Expected:
    """Returns the posterior means.

    Args:
        prior: the expected gain of every learnware, p_i.
        gains: observed gains over the base model, from right answers, by learnware.
        scores: observed qualities of answers, by the learnware that gave them; None: the base model.
        base: the base model's expected quality before feedback, b₀.
    """
    names = list(prior)
    place = {name: number + 1 for number, name in enumerate(names)}
    size = len(names) + 1
    precision = np.zeros((size, size))
    pull = np.zeros(size)

    def observe(row: NDArray[np.float64], value: float, certainty: float) -> None:
        precision[:] += certainty * np.outer(row, row)
        pull[:] += certainty * value * row

    def unit(*places: int) -> NDArray[np.float64]:
        row = np.zeros(size)
        row[list(places)] = 1.0
        return row

    observe(unit(0), base, 1 / BASE_VARIANCE)
    for name in names:
        row = unit(place[name])
        row[0] = REGRESSION
        observe(row, prior[name] + REGRESSION * base, 1 / GAIN_VARIANCE)
    for name, mean in gains.items():
        observe(unit(place[name]), mean.value, mean.weight / PIECE_VARIANCE)
    for system, mean in scores.items():
        observe(unit(0) if system is None else unit(0, place[system]), mean.value, mean.weight / PIECE_VARIANCE)
    found = np.linalg.solve(precision, pull)
    return Expected(float(np.clip(found[0], 0.0, 1.0)), {name: float(found[place[name]]) for name in names})
