"""Tells system prompts that instruct, saying what is to be done with every message ("Translate what the user writes."),
from others.

Where it does, a message is material for that job, whatever it asks by itself. Where it does not, it is a persona, a
policy or the date, which has nothing to do with the ask. The two are told apart by a logistic regression on the
mean of the sentences' vectors (`specs.encoding.ask_encoder`), fitted to the project's own system prompts
(`specs.prompts.system_prompts`) when the home is made (`specs.home`).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from specs.encoding.ask import ASK_CHARS, sentences_of
from specs.encoding.ask_encoder import ASK_DIM
from specs.encoding.encoder import PromptEncoder

FIRST, LAST = 6, 2
"""Sentences of a long system prompt that are looked at, from its beginning and its end: a new one takes some
milliseconds."""
SCALE = 4.0
"""Length of the vectors that the regression is fitted to."""
RIDGE = 1e-3
"""Weight of half the squared coefficients against the mean cross-entropy. In six-fold cross-validation 3e-4 finds 2
points more of the instructions, 3e-3 lets 2 points more of the others pass."""


def fit_instruction(instructions: Sequence[str], others: Sequence[str], encoder: PromptEncoder) -> NDArray[np.float32]:
    """Returns the regression's coefficients and intercept, (`ASK_DIM` + 1,)."""
    vectors = np.stack([_vector(text, encoder) for text in (*instructions, *others)]).astype(np.float64) * SCALE
    wanted = np.repeat([1.0, 0.0], [len(instructions), len(others)])

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = vectors @ theta[:-1] + theta[-1]
        residual = (1 / (1 + np.exp(-logits)) - wanted) / len(wanted)
        value = float(np.mean(np.logaddexp(0, logits) - wanted * logits)) + RIDGE / 2 * float((theta[:-1] ** 2).sum())
        return value, np.append(vectors.T @ residual + RIDGE * theta[:-1], residual.sum())

    theta = minimize(loss, np.zeros(ASK_DIM + 1), jac=True, method="L-BFGS-B").x
    return np.append(theta[:-1] * SCALE, theta[-1]).astype(np.float32)


def instruction_probability(system: str, coefficients: NDArray[np.float32], encoder: PromptEncoder) -> float:
    """Returns the probability that the system prompt instructs; `coefficients` are those of `fit_instruction`."""
    logit = float(coefficients[:-1] @ _vector(system, encoder) + coefficients[-1])
    return 1 / (1 + math.exp(-logit))


def _vector(system: str, encoder: PromptEncoder) -> NDArray[np.float32]:
    """Returns the mean of the sentences' vectors at unit norm, (`ASK_DIM`,)."""
    found = sentences_of(system)
    looked_at = found if len(found) <= FIRST + LAST else [*found[:FIRST], *found[-LAST:]]
    return encoder.encode_asks([[sentence[:ASK_CHARS] for sentence in looked_at]])[0]
