"""The catalogue that a router or an engine replica starts with, whatever has become of the published one."""

import logging
import sqlite3
from pathlib import Path

from specs.errors import InvalidInput, LearnwareError
from specs.market import journal
from specs.market.catalogue import Catalogue, read_catalogue, static_catalogue
from specs.market.checks import Requirements
from specs.market.integrity import LOOK_TIMEOUT_S, catalogue_of
from specs.market.objects import ObjectStore

logger = logging.getLogger("ray.serve")


def current_catalogue(market: Path | None, folder: Path, requirements: Requirements | None = None) -> Catalogue:
    """Returns the catalogue that a start begins with: the market's, or without a market the plain folder's, of which
    what `requirements` refuse is left out.

    A market's catalogue that cannot be read costs no start: the journal says the same; and where that cannot be read
    either, the base model is served alone until the market has written a catalogue (number 0, so that any is newer).

    Raises:
        InvalidLearnware: there is no such folder.
    """
    if market is None:
        return static_catalogue(folder, requirements)
    try:
        return read_catalogue(market)
    except InvalidInput as error:
        logger.error("%s; the market's journal is asked", error)
    try:
        return _from_journal(market)
    except (LearnwareError, OSError, sqlite3.Error, ValueError, TypeError) as error:
        logger.error("the market's journal in %s cannot be read: %s; the base model is served alone", market, error)
        return Catalogue(0, ())


def _from_journal(root: Path) -> Catalogue:
    if not journal.is_current(root):
        raise InvalidInput("there is none of today's format")
    with journal.reading(root, LOOK_TIMEOUT_S) as book:
        return catalogue_of(book, ObjectStore(root))
