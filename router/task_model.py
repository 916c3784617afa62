"""p(task | request): which of the known tasks a request belongs to, the base model's own work among them.

The classes are the learnwares' tasks and the base model's *home*: everyday prompts, free questions of each domain, and
other asks put to the learnwares' own material. Their log-odds are linear in the request's vector (what it asks for beside
what it is about, `specs.encoder.PromptEncoder`): a multinomial logistic regression, fitted to the points of the
specifications and to the home's prompts, so it needs nobody's rows. A density would ask whether a training point is near,
which a user's own words never are; a discriminative model asks which differences tell the tasks apart.

That ask and material stand side by side is what makes the third part of the home possible: any of the project's other asks
("translate this", "why?") can be joined to any point's material without having seen the text behind it.

The loss is the cross-entropy, each class with a fixed share of the weight, plus a ridge on the coefficients; L-BFGS
(`scipy.optimize`) minimises it, starting from the fit before where there is one. Probabilities are those of a regularised
fit, so they are softer than the training points' frequencies; `TEMPERATURE` brings them back.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from specs.rkme import ReducedSet

Matrix = NDArray[np.float32]

SCALE = 4.0
"""Vectors have unit norm; the ridge acts on coefficients of vectors this long."""
RIDGE = 3e-4
"""Weight of half the squared coefficients against the mean cross-entropy."""
HOME_SHARE = 0.5
"""Share of the weight that the base model's home has, whatever the number of tasks: half of all requests ask for nothing
that a learnware answers, as far as nobody knows better."""
ITERATIONS = 80
"""Of L-BFGS: further ones change no probability that is shown."""


class Fitted(NamedTuple):
    """Coefficients (classes, d) and intercepts (classes,) of the classes in `names`."""

    names: tuple[str, ...]
    coefficients: Matrix
    intercepts: NDArray[np.float32]

    def logits(self, x: Matrix) -> NDArray[np.float64]:
        """Unnormalised log-probabilities of one vector (d,) or several (n, d)."""
        return np.asarray(x @ self.coefficients.T + self.intercepts, np.float64)


def fit(
    tasks: Mapping[str, ReducedSet],
    home: Mapping[str, ReducedSet],
    before: Fitted | None = None,
    ridge: float = RIDGE,
    home_share: float = HOME_SHARE,
) -> Fitted:
    """The model of these classes, given by weighted points; names must differ. `before`, a fit of other or fewer classes,
    only makes it faster."""
    names = (*tasks, *home)
    sets = [*tasks.values(), *home.values()]
    shares = [(1 - home_share) / max(len(tasks), 1)] * len(tasks) + [home_share / max(len(home), 1)] * len(home)
    points = np.concatenate([one.points for one in sets]).astype(np.float32) * np.float32(SCALE)
    weights = np.concatenate(
        [share * one.weights / one.weights.sum() for share, one in zip(shares, sets, strict=True)]
    ).astype(np.float32)
    weights /= weights.sum()
    labels = np.repeat(np.arange(len(sets)), [len(one.points) for one in sets])
    rows, dim = np.arange(len(labels)), points.shape[1]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        theta = flat.reshape(len(sets), dim + 1)
        coefficients = theta[:, :dim].astype(np.float32)
        logits = points @ coefficients.T + theta[:, dim].astype(np.float32)
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        value = -float(weights @ logits[rows, labels].astype(np.float64))
        residual = np.exp(logits)
        residual[rows, labels] -= 1
        residual *= weights[:, None]
        gradient = np.empty_like(theta)
        gradient[:, :dim] = residual.T @ points + ridge * theta[:, :dim]
        gradient[:, dim] = residual.sum(0, dtype=np.float64)
        return value + ridge / 2 * float((theta[:, :dim] ** 2).sum()), gradient.ravel()

    start = _start(names, dim, before)
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "maxcor": 12})
    theta = found.x.reshape(len(sets), dim + 1)
    return Fitted(
        names, (theta[:, :dim] * SCALE).astype(np.float32), np.ascontiguousarray(theta[:, dim], np.float32)
    )


def _start(names: Sequence[str], dim: int, before: Fitted | None) -> NDArray[np.float64]:
    start = np.zeros((len(names), dim + 1))
    if before is not None and before.coefficients.shape[1] == dim:
        known = {name: row for row, name in enumerate(before.names)}
        for row, name in enumerate(names):
            if name in known:
                start[row, :dim] = before.coefficients[known[name]] / SCALE
                start[row, dim] = before.intercepts[known[name]]
    return start
