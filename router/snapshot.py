"""The snapshot that a router replica decides with: made from a catalogue, and swapped in by reference.

Small markets are built anew with each change. In large ones a change is a change of the selector that is there, whose
metric stays; once enough has changed, a new selector is built beside the requests, and the changes that came meanwhile
are applied to it.
"""

import gc
import logging
import operator
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from router.canaries import Canary
from router.follow_ups import FollowUps
from router.selection import Selector
from router.settings import SelectionSettings
from specs.canary import learnware_of
from specs.encoding.encoder import PROMPT_ENCODER, STATIC_ENCODER, load_encoder
from specs.errors import InvalidLearnware, InvalidSpecification
from specs.evidence import Evidence
from specs.learnware import Learnware, load_learnware
from specs.market.catalogue import Catalogue, Entry

logger = logging.getLogger("ray.serve")

ALWAYS_REBUILT = 150
"""The most learnwares for which every change fits the metric anew, which then takes well under a second."""
REBUILT_SHARE = 0.05
"""Share of learnwares that come or go before the metric is fitted anew."""
AT_ONCE_SHARE = 0.25
"""The largest share of learnwares that one change may add or remove without a new selector: to apply a larger one to
the old selector would leave it slow and its metric far off."""
SWITCH_INTERVAL_S = 0.0005
"""Seconds that a request may wait each time that a change runs Python code. The interpreter's own 5 ms add up, since a
choice lets go of the interpreter several times."""


class Snapshot(NamedTuple):
    """The selector over one state of the market (None where every learnware is called by name only), the follow-ups,
    the engines' names of the adapters by learnware, those of canaries among them, and the canaries by learnware."""

    selector: Selector | None
    follow_ups: FollowUps
    adapters: Mapping[str, str]
    canaries: Mapping[str, Canary] = {}


class SnapshotBuilder:
    """Keeps the snapshot of the latest catalogue; reads each version of a learnware once. Safe to use from several
    threads: `rebuild` keeps nobody else waiting."""

    def __init__(self, settings: SelectionSettings, load: Callable[[Entry], Learnware] | None = None) -> None:
        """Makes a builder without a snapshot. `load` reads one learnware; the default reads its folder, without its
        weights."""
        self._settings = settings
        self._load = load or load_for_selection
        self._lock = threading.Lock()
        self._entries: tuple[Entry, ...] = ()
        self._known: dict[str, Learnware] = {}  # by the hash of their files
        self._evidence: Evidence | None = None
        self._follow_ups: FollowUps | None = None
        self.snapshot: Snapshot | None = None
        """The snapshot of the catalogue that was built last; None when that holds nothing."""

    def build(self, catalogue: Catalogue) -> Snapshot | None:
        """Returns the snapshot for a catalogue, which is `snapshot` from now on. Canaries are no candidates, and are
        not read. A learnware that cannot be read is not chosen from, with the reason in the log, and read again at the
        next change; requests may name it. When it raises, `snapshot` stays.

        Raises:
            InvalidSpecification: none passes the filter of the settings, or one is of another encoder.
        """
        with self._lock:
            canaries = [entry for entry in catalogue.entries if entry.canary is not None]
            entries = (
                tuple(entry for entry in catalogue.entries if entry.canary is None) if canaries else catalogue.entries
            )
            removed, found = _differences(self._entries, entries)
            loaded = {entry: self._known.get(entry.sha256) or self._load_or_none(entry) for entry in found}
            failed = {entry for entry, learnware in loaded.items() if learnware is None}
            added = [entry for entry in found if entry not in failed]
            snapshot = self.snapshot
            if removed or added:
                known = dict(self._known)
                for entry in removed:
                    del known[entry.sha256]
                known |= {entry.sha256: each for entry, each in loaded.items() if each is not None}
                snapshot = self._changed(known, removed, added) if known else None
                self._known = known
            # one that failed is tried again with the next change
            self._entries = tuple(each for each in entries if each not in failed) if failed else entries
            self.snapshot = _with_canaries(snapshot, canaries)
            return self.snapshot

    def teach(self, evidence: Evidence | None) -> Snapshot | None:
        """Returns the snapshot with this evidence (None: without any), which is `snapshot` from now on. Evidence on
        other versions than those that are served has no effect."""
        with self._lock:
            self._evidence = evidence
            if self.snapshot is not None:
                self.snapshot = self._taught(self.snapshot)
            return self.snapshot

    def _taught(self, snapshot: Snapshot) -> Snapshot:
        """Returns a snapshot whose selector has the evidence on the versions in it."""
        selector = snapshot.selector
        wanted = None if self._evidence is None else self._evidence.of_versions(snapshot.adapters)
        if selector is None or _says_the_same(selector.evidence, wanted):
            return snapshot
        return snapshot._replace(selector=selector.taught(wanted))

    def _load_or_none(self, entry: Entry) -> Learnware | None:
        try:
            return self._load(entry)
        except (InvalidLearnware, InvalidSpecification) as error:
            logger.error("it is not chosen from: %s", error)
            return None

    @property
    def rebuild_due(self) -> bool:
        """Whether so much has changed since the metric was fitted that it should be fitted anew."""
        snapshot = self.snapshot
        selector = None if snapshot is None else snapshot.selector
        return selector is not None and selector.changes > REBUILT_SHARE * len(selector)

    def rebuild(self) -> None:
        """Puts a selector with a new metric into `snapshot`. It takes as long as a first start, while requests and
        changes go on.

        Raises:
            InvalidSpecification: as `build`.
        """
        with self._lock:
            known = self._known
        selector = self._selector(known)
        if selector is None:
            return
        with self._lock:
            if self.snapshot is not None and self.snapshot.selector is not None:
                removed = [known[sha256].id for sha256 in known.keys() - self._known.keys()]
                added = [learnware for sha256, learnware in self._known.items() if sha256 not in known]
                self.snapshot = self._taught(self.snapshot._replace(selector=selector.changed(added, removed)))

    def _changed(self, known: Mapping[str, Learnware], removed: Sequence[Entry], added: Sequence[Entry]) -> Snapshot:
        before = self.snapshot
        chooser = None if before is None else before.selector
        specified = sum(one.specification is not None for one in known.values())
        if chooser is None or specified <= ALWAYS_REBUILT or len(removed) + len(added) > AT_ONCE_SHARE * len(known):
            selector = self._selector(known)
        else:
            selector = chooser.changed([known[entry.sha256] for entry in added], [entry.id for entry in removed])
        adapters = {} if before is None else dict(before.adapters)
        for entry in removed:
            adapters.pop(entry.id, None)
        adapters |= {entry.id: entry.engine_name for entry in added}
        if self._follow_ups is None:
            self._follow_ups = FollowUps(load_encoder(STATIC_ENCODER))
        canaries = {} if before is None else before.canaries
        return self._taught(Snapshot(selector, self._follow_ups, adapters, canaries))

    def _selector(self, known: Mapping[str, Learnware]) -> Selector | None:
        learnwares = [one for one in known.values() if one.specification is not None]
        if not learnwares:
            return None
        before = None if self.snapshot is None else self.snapshot.selector
        selector = Selector(learnwares, load_encoder(PROMPT_ENCODER), self._settings, before)
        selector.choose("warm-up: the first call loads tables that every later one finds in cache")
        return selector


def _with_canaries(snapshot: Snapshot | None, entries: Sequence[Entry]) -> Snapshot | None:
    """Returns a snapshot with these canaries in the place of those that it has."""
    canaries = {
        learnware_of(entry.id): Canary(entry.id, entry.engine_name, entry.canary)
        for entry in entries
        if entry.canary is not None
    }
    if snapshot is None or snapshot.canaries == canaries:
        return snapshot
    adapters = dict(snapshot.adapters)
    for canary in snapshot.canaries.values():
        adapters.pop(canary.id, None)
    adapters |= {canary.id: canary.engine_name for canary in canaries.values()}
    return snapshot._replace(adapters=adapters, canaries=canaries)


def serve_beside_changes() -> None:
    """Prepares this process, once its first snapshot is there, for changes beside requests: threads take turns more
    often, and the garbage collector passes over the objects that are there now, which would take it some 50 ms for
    10,000 learnwares."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()


def _says_the_same(one: Evidence | None, other: Evidence | None) -> bool:
    """Whether a choice by one is a choice by the other."""
    if one is None or other is None:
        return one is other
    return one.tasks is other.tasks and one.posteriors == other.posteriors


def _differences(before: Sequence[Entry], after: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Returns the entries that left and those that came. Two catalogues of one reader share most entries, in the same
    order: those at the beginning and at the end are passed over by identity."""
    start = _shared(before, after)
    end = min(_shared(before[::-1], after[::-1]), min(len(before), len(after)) - start)
    old = {entry.sha256: entry for entry in before[start : len(before) - end]}
    new = {entry.sha256: entry for entry in after[start : len(after) - end]}
    return [old[sha256] for sha256 in old.keys() - new.keys()], [new[sha256] for sha256 in new if sha256 not in old]


def _shared(before: Sequence[Entry], after: Sequence[Entry]) -> int:
    """Returns how many entries, from the first on, are the same objects."""
    same = list(map(operator.is_, before, after))
    return same.index(False) if False in same else len(same)


def load_for_selection(entry: Entry) -> Learnware:
    """Returns a learnware without its weights, its points in the half precision that they have on disk."""
    learnware = load_learnware(entry.folder, weights=False)
    specification = learnware.specification
    if specification is None:
        return learnware
    views = tuple(replace(view, points=_halved(view.points)) for view in specification.views)
    declined = None if specification.declined is None else _halved(specification.declined)
    return replace(learnware, specification=replace(specification, views=views, declined=declined))


def _halved(points: "NDArray[np.float32]") -> "NDArray[np.float32]":
    return cast("NDArray[np.float32]", points.astype(np.float16))
