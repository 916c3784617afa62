"""What a router replica decides with: built whole from a catalogue, then swapped in by reference."""

from collections.abc import Mapping
from typing import NamedTuple

from router.follow_ups import FollowUps
from router.selection import Selector
from router.settings import SelectionSettings
from specs.encoder import load_encoder
from specs.learnware import Learnware, load_learnware
from specs.market.catalogue import Catalogue


class Snapshot(NamedTuple):
    """The selector and the follow-ups in its encoder's space, over one state of the market; the engines' names of the
    adapters by learnware."""

    selector: Selector
    follow_ups: FollowUps
    adapters: Mapping[str, str]


class SnapshotBuilder:
    """Builds snapshots; reads each version of a learnware once. Not for use from two threads at a time."""

    def __init__(self, settings: SelectionSettings) -> None:
        self._settings = settings
        self._known: dict[str, Learnware] = {}
        self._follow_ups: dict[str, FollowUps] = {}

    def build(self, catalogue: Catalogue) -> Snapshot | None:
        """The snapshot for a catalogue; None when it holds nothing.

        Raises:
            InvalidLearnware: a learnware cannot be read.
            InvalidSpecification: none passes the filter of the settings, or one is of another encoder.
        """
        self._known = {
            entry.sha256: self._known.get(entry.sha256) or load_learnware(entry.folder, weights=False)
            for entry in catalogue.entries
        }
        if not self._known:
            return None
        learnwares = list(self._known.values())
        encoder = load_encoder(learnwares[0].specification.encoder_id)
        selector = Selector(learnwares, encoder, self._settings)
        selector.choose("warm-up: the first call loads tables that every later one finds in cache")
        if encoder.id not in self._follow_ups:
            self._follow_ups = {encoder.id: FollowUps(encoder)}
        adapters = {entry.id: entry.internal_name for entry in catalogue.entries}
        return Snapshot(selector, self._follow_ups[encoder.id], adapters)
