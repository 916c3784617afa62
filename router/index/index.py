"""Finds the specifications nearest to a vector: exactly up to `EXACT_POINTS` points, in two stages beyond.

The closeness of a vector to a learnware's reduced set is the log of its kernel mean (`router.index.point_stack`). With
all sets stacked this is one matrix product and a segmented log-sum-exp. At 10,000 learnwares the product would read
some hundred megabytes per request, so the points are put into the k-means cells of an inverted file
(`router.index.inverted_file`): the cells nearest to x name the candidate learnwares, and only these are scored exactly.

An index is immutable. Adding or removing learnwares makes another one that shares the large part with the one before:
removed learnwares are marked, added ones stand in a small second part, as in a log-structured merge tree (O'Neil et
al. 1996) whose merge is a new index. The answers are those of a new index with the same cells.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.index.inverted_file import Cells
from router.index.point_stack import PointSet, PointStack, joined, stack
from specs.errors import InvalidSpecification

Vector = NDArray[np.float32]

EXACT_POINTS = 24_000
"""The most points that are searched exactly; up to this many the one product is as fast as two stages. The starters
have 135 to 267 points each, so this is about 150 learnwares."""
CANDIDATES = 16
"""The fewest learnwares that two stages score exactly; as many as are asked for, where those are more."""


class Closeness(NamedTuple):
    """Learnwares (by their numbers in the index) with their closeness f(x), the nearest first."""

    owners: NDArray[np.int64]
    values: NDArray[np.float64]


class SpecificationIndex:
    """Reduced sets of learnwares in the metric's space. `sets[i]` is that of learnware number i. Numbers are never used
    again: learnwares that `changed` adds take the next ones."""

    def __init__(self, sets: Sequence[PointSet], gamma: float, exact: bool | None = None) -> None:
        """Stacks the sets; `exact` None searches exactly up to `EXACT_POINTS` points, and by an inverted file beyond.

        Raises:
            InvalidSpecification: there is no set.
        """
        if not sets:
            raise InvalidSpecification("an index needs at least one learnware")
        self._gamma = gamma
        self._main = stack(sets, gamma)
        self._added: PointStack | None = None
        self._alive = np.ones(len(sets), bool)
        self.exact = len(self._main.points) <= EXACT_POINTS if exact is None else exact
        self._cells = None if self.exact else Cells(self._main.points, *self._listed(self._main, 0))

    def __len__(self) -> int:
        """Number of learnwares in it, without those that were removed."""
        return int(self._alive.sum())

    def changed(self, added: Sequence[PointSet], removed: Sequence[int]) -> "SpecificationIndex":
        """Returns this index without the learnwares `removed` and with those `added`, in time in proportion to all that
        `changed` ever added.

        Raises:
            InvalidSpecification: nothing would be left.
        """
        other = copy.copy(self)
        other._change(added, removed)  # noqa: SLF001 (an object of this very class)
        return other

    @property
    def changes(self) -> int:
        """Number of learnwares that were added or removed since the index was new."""
        return len(self._alive) - self._main.owners + int((~self._alive).sum())

    def search(self, x: Vector, top: int) -> Closeness:
        """Returns the `top` nearest learnwares to x (r,)."""
        top = min(top, len(self._alive))
        if self._cells is None:
            owners, closeness = None, self.all_values(x)
        else:
            whole = len(self) == len(self._alive)
            owners = self._cells.candidates(x, max(top, CANDIDATES), None if whole else self._alive)
            closeness = self._values_of(x, owners)
        top = min(top, len(closeness))
        best = np.argpartition(-closeness, top - 1)[:top]
        best = best[np.argsort(-closeness[best], kind="stable")]
        best = best[closeness[best] > -np.inf]
        return Closeness(best if owners is None else owners[best], closeness[best])

    def all_values(self, x: Vector) -> NDArray[np.float64]:
        """Returns f(x) of every learnware, exactly, by number; -∞ for those that were removed."""
        values = self._main.values(x, self._gamma)
        if self._added is not None:
            values = np.concatenate([values, self._added.values(x, self._gamma)])
        values[~self._alive] = -np.inf
        return values

    def values_of_many(self, rows: NDArray[np.float32], owners: Sequence[int]) -> NDArray[np.float64]:
        """Returns f of some learnwares for many vectors (m, r), exactly: (m, len(owners))."""
        parts = [self._part(owner) for owner in owners]
        return np.concatenate([part.values_of_many(rows, self._gamma) for part in parts], 1)

    def check_integrity(self) -> list[str]:
        """Returns everything that is wrong, in words; empty when the index is whole."""
        problems: list[str] = []
        parts = [self._main] if self._added is None else [self._main, self._added]
        if sum(part.owners for part in parts) != len(self._alive):
            problems.append(f"{len(self._alive)} learnwares are marked where the parts hold others")
        for name, part in zip(("main", "added"), parts, strict=False):
            if part.starts[0] != 0 or part.starts[-1] != len(part.points) or (np.diff(part.starts) < 1).any():
                problems.append(f"{name} part: the points are not divided among the learnwares")
            if not np.isfinite(part.points).all() or not (part.constants < np.inf).all():
                problems.append(f"{name} part: values are not finite")
        if self._cells is not None and not problems:
            first = [0, self._main.owners]
            owners = [self._listed(part, start)[1] for part, start in zip(parts, first, strict=False)]
            points = np.concatenate([part.points for part in parts])
            problems += self._cells.check_integrity(points, np.concatenate(owners))
        return problems

    def _change(self, added: Sequence[PointSet], removed: Sequence[int]) -> None:
        self._alive = np.concatenate([self._alive, np.ones(len(added), bool)])
        self._alive[list(removed)] = False
        if not self._alive.any():
            raise InvalidSpecification("an index needs at least one learnware")
        if added:
            new = stack(added, self._gamma)
            self._added = new if self._added is None else joined(self._added, new)
            if self._cells is not None:
                lists = self._listed(self._added, self._main.owners)
                self._cells = self._cells.with_points(self._added.points, *lists)

    def _part(self, owner: int) -> PointStack:
        """Returns one learnware's points alone."""
        part, number = self._main, owner
        if owner >= self._main.owners:
            assert self._added is not None
            part, number = self._added, owner - self._main.owners
        start, end = part.starts[number], part.starts[number + 1]
        return PointStack(part.points[start:end], part.constants[start:end], np.array([0, end - start]))

    def _values_of(self, x: Vector, owners: NDArray[np.int64]) -> NDArray[np.float64]:
        later = owners >= self._main.owners
        if self._added is None or not later.any():
            return self._main.values_of(x, owners, self._gamma)
        values = np.empty(len(owners))
        values[later] = self._added.values_of(x, owners[later] - self._main.owners, self._gamma)
        if not later.all():
            values[~later] = self._main.values_of(x, owners[~later], self._gamma)
        return values

    def _listed(self, part: PointStack, first: int) -> tuple[Vector, NDArray[np.int64]]:
        """Returns a part's biases for the cells, constants in units of closeness, and the number of each point's
        owner."""
        owners = np.repeat(np.arange(first, first + part.owners), np.diff(part.starts))
        return part.constants / np.float32(self._gamma), owners
