"""Draws arrival times, adapters and lengths of requests; a seed gives two servers the very same load."""

import numpy as np
from numpy.typing import NDArray


def gamma_arrivals(count: int, rate: float, cv: float, seed: int) -> NDArray[np.float64]:
    """Returns arrival times in seconds, (count,), ascending from 0. The gaps are gamma distributed with mean 1 / `rate`
    and coefficient of variation `cv` (1: Poisson; 4: bursts)."""
    shape = 1 / cv**2
    gaps = np.random.default_rng(seed).gamma(shape, 1 / (rate * shape), count)
    gaps[0] = 0.0
    return np.cumsum(gaps)


def power_law(count: int, adapters: int, alpha: float, seed: int) -> NDArray[np.int64]:
    """Returns the adapter of each request, (count,). Rank k (from 0) has a probability proportional to (k + 1)^-alpha;
    the ranks are dealt out at random, so that adapters next to each other by name are not alike in popularity."""
    generator = np.random.default_rng(seed)
    weights = np.arange(1, adapters + 1, dtype=float) ** -alpha
    heat = generator.permutation(adapters)
    return np.asarray(heat[generator.choice(adapters, count, p=weights / weights.sum())], dtype=np.int64)


def uniform_lengths(count: int, low: int, high: int, scale: int, seed: int) -> NDArray[np.int64]:
    """Returns lengths in tokens, (count,), uniform from `low` to `high`, divided by `scale`, at least 1."""
    drawn = np.random.default_rng(seed).integers(low, high + 1, count)
    return np.asarray(np.maximum(1, np.rint(drawn / scale)), dtype=np.int64)
