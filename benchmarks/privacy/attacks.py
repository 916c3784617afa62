"""Membership attacks on specifications that are given as weighted points, and how well they tell members apart.

The attacker knows the recipe, its noise, and a pool of candidate rows of the task, of which `rows` are members; with
the recipe it makes shadow specifications of random parts of the pool. Each attack scores every candidate:

    nearest             the distance to the nearest point
    density             of the weighted points, in the best of four bandwidths
    mean likelihood     likelihood ratio of the points' mean with the candidate in and out, the other members being
                        random others of the pool (Gaussian, in the pool's own covariance: what Homer et al. 2008 and
                        Dwork et al. 2015, "Robust Traceability from Trace Amounts", trace, weighted as best)
    shadow, <one>       likelihood ratio of one of these scores, from its values in the shadow specifications with and
                        without the candidate (LiRA: Carlini et al. 2022, "Membership Inference Attacks From First
                        Principles", online, one variance for all rows)
    shadow, together    the same of all scores at once, with their covariance
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specs.rkme import local_gamma, squared_distances

Matrix = NDArray[np.float32]
Values = NDArray[np.float64]

BANDWIDTHS = (1 / 16, 1 / 4, 1.0, 4.0)
"""Bandwidths of the density attack, as multiples of the pool's own (`specs.rkme.local_gamma`)."""
SCORES = ("nearest", *(f"density, {factor:g}" for factor in BANDWIDTHS), "mean likelihood")
LEAST_SHADOWS = 2
"""A likelihood ratio needs so many shadows with a row and so many without it; rows with fewer count as undecided."""
LEAST_VARIANCE = 1e-12


class Released(NamedTuple):
    """A specification as the attacker sees it: points (k, d), weights (k,), and the noise that the recipe put on their
    weighted mean (standard deviation of a coordinate)."""

    points: Matrix
    weights: Values
    mean_noise: float


class Pool:
    """Candidate rows (N, d), with statistics of them that are computed once."""

    def __init__(self, vectors: Matrix) -> None:
        self.vectors = vectors
        self.gamma = local_gamma(vectors)
        self._mean = vectors.mean(0, dtype=np.float64)
        self._centred = vectors - self._mean
        variances, self._axes = np.linalg.eigh(self._centred.T @ self._centred / len(vectors))
        self._variances = np.maximum(variances, 0)
        self._rotated = self._centred @ self._axes

    def scores(self, released: Released, members: int) -> Values:
        """Returns every attack's score of every candidate, (N, attacks), in the order of SCORES; larger means
        member."""
        distances = squared_distances(self.vectors, released.points)
        with np.errstate(divide="ignore"):
            log_weights = np.log(released.weights)
        densities = []
        for factor in BANDWIDTHS:
            exponents = log_weights - factor * self.gamma * distances
            peaks = exponents.max(1)
            densities.append(peaks + np.log(np.exp(exponents - peaks[:, None]).sum(1)))
        return np.stack([-distances.min(1), *densities, self._mean_likelihood(released, members)], axis=1)

    def _mean_likelihood(self, released: Released, members: int) -> Values:
        """Returns log p(mean | in) - log p(mean | out) of every candidate, for sampling without replacement from the
        pool."""
        size = len(self.vectors)
        found = (released.weights @ released.points.astype(np.float64) - self._mean) @ self._axes
        spread = self._variances * (size - members) / (size - 1) / members + released.mean_noise**2
        precision = 1 / np.maximum(spread, 1e-9 * spread.max())
        with_it = self._rotated * (size - members) / (members * (size - 1))
        without = -self._rotated / (size - 1)
        linear = (with_it - without) @ (precision * found)
        return np.asarray(linear - ((with_it**2 - without**2) @ precision) / 2)


def area_under_curve(members: Values, others: Values) -> float:
    """Returns how often a member's score is larger than another row's; a tie counts half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, "left") + np.searchsorted(ordered, members, "right")
    return float(below.mean() / 2 / len(others))


def attack(pool: Pool, released: Sequence[Released], inside: NDArray[np.bool_]) -> dict[str, float]:
    """Returns the area under the curve of every attack, the mean over the specifications, each attacked with all the
    others as shadows. `inside` (specifications, N) says which candidates are members of which."""
    scores = np.stack([pool.scores(one, int(mask.sum())) for one, mask in zip(released, inside, strict=True)])
    kinds = {name: scores[:, :, place] for place, name in enumerate(SCORES)}
    kinds |= {f"shadow, {name}": _ratios(scores[:, :, [place]], inside) for place, name in enumerate(SCORES)}
    kinds["shadow, together"] = _ratios(scores, inside)
    areas = {
        name: float(
            np.mean(
                [area_under_curve(row[mask], row[~mask]) for row, mask in zip(values, inside, strict=True)],
            )
        )
        for name, values in kinds.items()
    }
    return _best_bandwidth(areas)


def _ratios(scores: Values, inside: NDArray[np.bool_]) -> Values:
    """Returns log-likelihood ratios (specifications, N) of scores (specifications, N, q), each from all other
    specifications' scores with and without the row, as Gaussians of one covariance."""
    with_it = inside[:, :, None]
    counts = np.stack([with_it.sum(0), (~with_it).sum(0)])
    sums = np.stack([(scores * with_it).sum(0), (scores * ~with_it).sum(0)])
    centre = sums / np.maximum(counts, 1)
    residuals = scores - np.where(with_it, centre[0], centre[1])
    flat = residuals.reshape(-1, scores.shape[2])
    covariance = flat.T @ flat / len(flat)
    covariance += LEAST_VARIANCE * (1 + np.trace(covariance)) * np.eye(len(covariance))
    precision = np.linalg.inv(covariance)
    ratios = np.zeros(scores.shape[:2])
    for number, (own, mask) in enumerate(zip(scores, with_it, strict=True)):
        left = np.stack([counts[0] - mask, counts[1] - ~mask])
        means = np.stack([sums[0] - own * mask, sums[1] - own * ~mask]) / np.maximum(left, 1)
        shift = (means[0] - means[1]) @ precision
        values = (shift * (own - means.mean(0))).sum(1)
        ratios[number] = np.where(left.min(0)[:, 0] >= LEAST_SHADOWS, values, 0.0)
    return ratios


def _best_bandwidth(areas: dict[str, float]) -> dict[str, float]:
    best: dict[str, float] = {}
    for name, area in areas.items():
        short = name.partition(", ")[0] if name.startswith("density") else name
        short = "shadow, density" if name.startswith("shadow, density") else short
        best[short] = max(area, best.get(short, 0.0))
    return best
