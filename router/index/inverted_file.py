"""An inverted file over points: the Voronoi cells of k-means centres, each with the points that lie in it and the
numbers of their owners.

(Jégou et al. 2011, "Product Quantization for Nearest Neighbor Search", section IV.) The cells nearest to a vector name
the owners that may be nearest to it. Points that come later go into the cells that are there, in a second list of
their own, so that adding some costs no pass over all.
"""

import copy

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]
Owners = NDArray[np.int64]

PROBED_CELLS = 16
"""Number of cells that are probed first; recall@1 and time at 10,000 learnwares are in `benchmarks.routing`. 12 find
99.4 % of the nearest ones there, 16 and 24 99.8 %, at 0.4, 0.6 and 0.9 ms."""
FEWEST = 5
"""The fewest candidates that a probe must find where so many are wanted; with fewer, four times as many cells are
probed."""
POINTS_A_CANDIDATE = 4
"""Points that are looked at for each candidate that is wanted, the nearest of those found: an owner has several near
ones."""
TRAINING_POINTS = 60_000
"""The most points that the centres are fitted to, drawn at random."""
CELL_ROUNDS = 6
"""Rounds of Lloyd's algorithm for the centres."""
BLOCK = 2048
"""Points that are assigned to cells at a time."""


class Cells:
    """An immutable inverted file. Owners are whole numbers from 0."""

    def __init__(self, points: Matrix, biases: Vector, owners: Owners) -> None:
        """Puts points (n, r) with their biases (n,) and owners (n,) into cells. A point z is the nearer to x the larger
        x·z + its bias is."""
        self._centres = _centres(points)
        self._half_squares = (self._centres**2).sum(1) / 2
        self._lists = [_Lists(points, biases, owners, self.nearest_cell(points), len(self._centres))]

    def __len__(self) -> int:
        return len(self._centres)

    def with_points(self, points: Matrix, biases: Vector, owners: Owners) -> "Cells":
        """Returns these cells with more points, which replace those of an earlier call."""
        other = copy.copy(self)
        added = _Lists(points, biases, owners, self.nearest_cell(points), len(self._centres))
        other._lists = [self._lists[0], added]  # noqa: SLF001 (an object of this very class)
        return other

    def candidates(self, x: Vector, count: int, alive: NDArray[np.bool_] | None) -> Owners:
        """Returns the owners of the points nearest to x (r,), by their nearest point, the nearest first: at most
        `count`, fewer when the nearest points belong to fewer. With `alive` (owners,) only owners that it marks."""
        nearness = self._centres @ x - self._half_squares
        probed = PROBED_CELLS
        while True:
            probed = min(probed, len(nearness))
            cells = np.argpartition(-nearness, probed - 1)[:probed].tolist()
            found = self._owners_in(cells, x, count, alive)
            if len(found) >= min(count, FEWEST) or probed == len(nearness):
                return found
            probed *= 4  # few owners, or removed ones, lie around x: look further

    def _owners_in(self, cells: list[int], x: Vector, count: int, alive: NDArray[np.bool_] | None) -> Owners:
        slices = [(lists, cell) for lists in self._lists for cell in cells if len(lists.owners[cell])]
        if not slices:
            return np.empty(0, np.int64)
        closeness = np.concatenate([lists.points[cell] @ x for lists, cell in slices])
        closeness += np.concatenate([lists.biases[cell] for lists, cell in slices])
        owners = np.concatenate([lists.owners[cell] for lists, cell in slices])
        if alive is not None:
            kept = alive[owners]
            closeness, owners = closeness[kept], owners[kept]
        nearest = min(POINTS_A_CANDIDATE * count, len(closeness))
        best = np.argpartition(-closeness, nearest - 1)[:nearest] if nearest else np.empty(0, np.int64)
        ordered = owners[best[np.argsort(-closeness[best])]].tolist()
        return np.array(list(dict.fromkeys(ordered))[:count], np.int64)

    def nearest_cell(self, points: Matrix) -> NDArray[np.int64]:
        """Returns the cell that each point (n, r) belongs into: (n,)."""
        return _nearest(points, self._centres)

    def check_integrity(self, points: Matrix, owners: Owners) -> list[str]:
        """Returns everything that is wrong, in words, when these are all points (n, r) and their owners (n,), in any
        order."""
        problems: list[str] = []
        found = [(list_.points[cell], list_.owners[cell], cell) for list_ in self._lists for cell in range(len(self))]
        held = np.concatenate([part for part, _, _ in found])
        who = np.concatenate([part for _, part, _ in found])
        where = np.concatenate([np.full(len(part), cell) for _, part, cell in found])
        if len(held) != len(points) or not np.array_equal(np.sort(who), np.sort(owners)):
            return [f"the cells hold {len(held)} points where there are {len(points)}, or other owners'"]
        by_value = [np.lexsort((*part.T[:3], numbers)) for part, numbers in ((held, who), (points, owners))]
        if not np.array_equal(held[by_value[0]], points[by_value[1]]):
            problems.append("the cells hold other points than there are")
        if wrong := int((self.nearest_cell(held) != where).sum()):
            problems.append(f"{wrong} points lie in cells that are not the nearest to them")
        return problems


class _Lists:
    """Points, biases and owners by cell. Slices of three arrays, made once: making them costs more than they hold."""

    def __init__(self, points: Matrix, biases: Vector, owners: Owners, cell: NDArray[np.int64], count: int) -> None:
        order = np.argsort(cell, kind="stable")
        bounds = np.cumsum(np.bincount(cell, minlength=count)).tolist()
        spans = list(zip([0, *bounds[:-1]], bounds, strict=True))
        sorted_points, sorted_biases, sorted_owners = points.take(order, 0), biases.take(order), owners.take(order)
        self.points = [sorted_points[start:end] for start, end in spans]
        self.biases = [sorted_biases[start:end] for start, end in spans]
        self.owners = [sorted_owners[start:end] for start, end in spans]


def _centres(points: Matrix) -> Matrix:
    """Returns about √n centres by Lloyd's algorithm on a sample."""
    generator = np.random.default_rng(0)
    count = int(np.sqrt(len(points)))
    sample = points[generator.choice(len(points), min(TRAINING_POINTS, len(points)), replace=False)]
    centres = sample[:count].copy()
    for _ in range(CELL_ROUNDS):
        cell = _nearest(sample, centres)
        counts = np.bincount(cell, minlength=count)
        filled = counts > 0
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[filled]
        sums = np.add.reduceat(sample.take(np.argsort(cell, kind="stable"), 0), starts)
        centres[filled] = sums / counts[filled, None]
    return centres


def _nearest(points: Matrix, centres: Matrix) -> NDArray[np.int64]:
    half_squares = (centres**2).sum(1) / 2
    found = np.empty(len(points), np.int64)
    for start in range(0, len(points), BLOCK):
        found[start : start + BLOCK] = (points[start : start + BLOCK] @ centres.T - half_squares).argmax(1)
    return found
