"""The rules by which ids and versions are taken: one learnware holds an id, it has one canary at most, and versions
never go back."""

from specs.canary import canary_id
from specs.card import CARD_FILE
from specs.errors import CanaryRuns, DuplicateLearnware, InvalidLearnware, UnknownLearnware
from specs.learnware import Learnware
from specs.market.journal import Journal, Record, State
from specs.suggestion import did_you_mean


def check_vacant(book: Journal, learnware: Learnware) -> None:
    """Checks that a learnware may be submitted.

    Raises:
        DuplicateLearnware: another one holds its id.
        InvalidLearnware: a version as high was served under this id before.
    """
    if active := book.active(learnware.id):
        raise DuplicateLearnware(
            f"learnware {active.id!r} is in the market already (version {active.version}); replace it with a "
            "higher version, or choose another id"
        )
    _check_version(book, learnware.id, learnware.version)


def replaceable(book: Journal, learnware: Learnware) -> Record:
    """Returns the record in whose place a learnware may come.

    Raises:
        UnknownLearnware: none holds its id.
        CanaryRuns: the one that does has a canary.
        InvalidLearnware: its version is not higher.
    """
    active = holder(book, learnware.id)
    if canary := book.active(canary_id(learnware.id)):
        raise CanaryRuns(
            f"learnware {active.id!r} has a canary, version {canary.version}: promote it or roll it back before "
            "another version comes"
        )
    if learnware.version <= active.version:
        raise InvalidLearnware(
            f"learnware {active.id!r} is in the market with version {active.version}; a replacement needs a "
            f"higher one in {CARD_FILE}, not {learnware.version}"
        )
    _check_version(book, learnware.id, learnware.version)
    return active


def check_canary(book: Journal, learnware: Learnware) -> None:
    """Checks that a learnware may be served beside the one that holds its id, as a canary. Raises as `replaceable`, and
    InvalidLearnware where that one is not served."""
    active = replaceable(book, learnware)
    if active.state is State.UNFIT:
        raise InvalidLearnware(
            f"learnware {active.id!r} is not served ({active.reason}), so a canary could be compared with nothing: "
            "replace it"
        )


def holder(book: Journal, learnware_id: str) -> Record:
    """Returns the record that holds an id. Raises UnknownLearnware."""
    active = book.active(learnware_id)
    if active is None:
        raise unknown(book, learnware_id)
    return active


def unknown(book: Journal, learnware_id: str) -> UnknownLearnware:
    """Returns the error on an id that no learnware holds, with the nearest that one does."""
    ids = [record.id for record in book.holders()]
    return UnknownLearnware(f"there is no learnware {learnware_id!r} in the market{did_you_mean(learnware_id, ids)}")


def _check_version(book: Journal, learnware_id: str, version: int) -> None:
    """Raises InvalidLearnware when a version as high was served before. The one whose files were lost in the market may
    come again."""
    highest = book.highest_version(learnware_id)
    if highest is None or version > highest:
        return
    latest = book.latest(learnware_id)
    lost = latest is not None and latest.state is State.QUARANTINED and latest.origin is None
    if not (lost and version == book.highest_version(learnware_id, canaries=False)):
        raise InvalidLearnware(
            f"learnware {learnware_id!r} was served in version {highest} before, and versions never go back: "
            f"it needs {highest + 1} or higher in {CARD_FILE}, not {version}"
        )
