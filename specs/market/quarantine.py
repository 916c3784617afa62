"""The market's quarantine: files that stay out until somebody releases them, within bounds of number and size.

Only files are bounded. Of every submission the journal keeps the reason, and the hash by which the same files are known
again.
"""

from collections.abc import Iterable
from typing import NamedTuple

from specs.errors import DuplicateLearnware, InvalidLearnware
from specs.market.checks import Requirements, check_learnware
from specs.market.journal import Journal, Record, State
from specs.market.objects import ObjectStore, fingerprint, size, stamp

QUARANTINE_KEPT = 100
"""Learnwares whose files are kept in quarantine; of older ones only the reason is."""
QUARANTINE_BYTES = 4 << 30
"""Bytes of files that are kept in quarantine, the latest submissions first."""


class Freed(NamedTuple):
    """The number of learnwares whose files were removed, and the bytes of these files."""

    learnwares: int
    bytes: int


def check_not_held_back(book: Journal, sha256: str) -> None:
    """Raises InvalidLearnware when files with this hash are in quarantine; the message has the reason, and says how
    they may come back."""
    held = book.held_back(sha256)
    if held is not None:
        raise InvalidLearnware(
            f"learnware {held.id}: these very files are in quarantine since {held.changed:%Y-%m-%d %H:%M} UTC: "
            f"{held.reason}. Mend them, or let them in with `learnware-serving market release {held.id}`"
        )


def release(book: Journal, objects: ObjectStore, record: Record, requirements: Requirements) -> Record:
    """Takes a record out of quarantine and returns it. A learnware that was served is served again if its files are
    whole and pass every check; the files of any other, and of a canary, may be submitted again.

    Raises:
        InvalidLearnware: it was served, and does not pass the checks now, or a higher version was served since.
        DuplicateLearnware: it was served, and another learnware has its id now.
    """
    assert record.reason is not None
    if record.stamp is None or record.share is not None or not _restored(book, objects, record, requirements):
        return book.end(record, State.REMOVED, f"released from quarantine, where it was because: {record.reason}")
    served = book.end(record, State.ACTIVE)
    book.set_stamp(served, stamp(objects.folder(str(record.sha256))))
    return served


def _restored(book: Journal, objects: ObjectStore, record: Record, requirements: Requirements) -> bool:
    """Brings a record's files back among the served ones; returns False when they are kept no more, or are not those
    that were submitted."""
    assert record.sha256 is not None
    kept = objects.folder(record.sha256)
    place = kept if kept.is_dir() else objects.quarantined(record.sha256)
    if not place.is_dir() or fingerprint(place) != record.sha256:
        return False
    if active := book.active(record.id):
        raise DuplicateLearnware(
            f"learnware {record.id!r} is in the market in version {active.version}; remove that before version "
            f"{record.version} is released"
        )
    highest = book.highest_version(record.id, canaries=False)
    if highest is not None and highest > record.version:
        raise InvalidLearnware(
            f"learnware {record.id!r} was served in version {highest} since, and versions never go back: submit "
            f"{highest + 1} or higher"
        )
    check_learnware(place, requirements)
    objects.restore(record.sha256)
    return True


def drop_beyond_bounds(objects: ObjectStore, held: Iterable[Record]) -> None:
    """Removes the quarantined files of all but the latest of the records `held`, as many as the bounds allow, and those
    that no record holds."""
    kept: set[str] = set()
    total = 0
    there = objects.quarantined_hashes()
    for record in sorted(held, key=lambda each: each.number, reverse=True):
        if record.sha256 is None or record.sha256 in kept or record.sha256 not in there:
            continue
        total += size(objects.quarantined(record.sha256))
        if len(kept) == QUARANTINE_KEPT or total > QUARANTINE_BYTES:
            break
        kept.add(record.sha256)
    for sha256 in there - kept:
        objects.delete_quarantined(sha256)


def purge(objects: ObjectStore, served: Iterable[str]) -> Freed:
    """Removes all files in quarantine, and those of learnwares that are not among the hashes `served`."""
    count = freed = 0
    for sha256 in objects.quarantined_hashes():
        count, freed = count + 1, freed + size(objects.quarantined(sha256))
        objects.delete_quarantined(sha256)
    for sha256 in objects.hashes() - set(served):
        count, freed = count + 1, freed + size(objects.folder(sha256))
        objects.delete(sha256)
    return Freed(count, freed)
