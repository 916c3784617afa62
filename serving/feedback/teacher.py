"""Learns from the log of decisions beside the stack: reads what came, makes evidence, and publishes it for the routers.

The application that keeps the log calls `Teacher.learn` now and then. Evidence goes into a folder of the market, where
routers follow it (`router.evidence_follower`).
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from router.selection import Selector
from router.settings import SelectionSettings
from router.snapshot import SnapshotBuilder
from serving.feedback.learner import LearningSettings, learn
from serving.feedback.pieces import read_pieces
from specs.encoding.encoder import load_prompt_encoder
from specs.errors import InvalidSpecification
from specs.evidence import Evidence
from specs.evidence_store import FOLDER, EvidenceStore
from specs.market.catalogue import Catalogue, read_catalogue

logger = logging.getLogger("ray.serve")

Rows = Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Records, each with one piece of its feedback (`serving.feedback.pieces.read_pieces`)."""


class Teacher:
    """Makes evidence for one market. For the use of one thread at a time."""

    def __init__(
        self,
        market: Path,
        learning: LearningSettings,
        selection: SelectionSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._market = market
        self._learning = learning
        self._clock = clock
        self._store = EvidenceStore(market / FOLDER)
        self._selection = selection
        self._builder: SnapshotBuilder | None = None  # made where it learns: what is sent there holds no lock
        self._seen: tuple[int, int, int] | None = None

    def learn(self, rows: Rows) -> Evidence | None:
        """Publishes the evidence in these pieces and returns it; None where neither they nor the market have changed
        since the last call, there is nothing to choose from, or an operator changed the evidence meanwhile.

        Raises:
            InvalidInput: the market's catalogue, or the newest evidence, cannot be read.
        """
        catalogue = read_catalogue(self._market)
        pieces = read_pieces(rows, load_prompt_encoder().fingerprint)
        before = self._store.read()
        told = frozenset((one.tenant, one.time, bool(one.gains)) for one in pieces)  # right answers are scored later
        seen = (catalogue.sequence, hash(told), len(pieces))
        if not pieces or seen == self._seen:
            return None
        selector, versions = self._over(catalogue)
        if selector is None:
            return None
        found = learn(pieces, selector, self._learning, self._clock(), before, versions)
        published = self._store.write(found, 0 if before is None else before.number)
        if published is not None:  # else an operator approved or went back meanwhile: the next call learns after that
            self._seen = seen
        return published

    def _over(self, catalogue: Catalogue) -> tuple[Selector | None, Mapping[str, str]]:
        """Returns the choice without evidence over a state of the market (None where there is nothing to choose from),
        and the versions in it."""
        builder = self._builder = self._builder or SnapshotBuilder(self._selection)
        try:
            snapshot = builder.build(catalogue)
            if builder.rebuild_due:
                builder.rebuild()
                snapshot = builder.snapshot
        except InvalidSpecification as error:
            logger.error("nothing is learnt: %s", error)
            return None, {}
        return (None, {}) if snapshot is None else (snapshot.selector, snapshot.adapters)
