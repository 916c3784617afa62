"""Checks that a market is whole, and repairs it when it is opened. The caller holds the market's lock."""

from collections.abc import Callable, Iterator
from pathlib import Path

from specs.canary import learnware_of
from specs.card import CARD_FILE, load_card
from specs.errors import InvalidInput, InvalidLearnware
from specs.learnware import Learnware, load_learnware, served_over
from specs.market import journal
from specs.market.canaries import end
from specs.market.catalogue import Catalogue, Entry, read_catalogue
from specs.market.checks import Requirements, check_fits_market
from specs.market.fitness import BROKEN, UNFIT, Unserved, why_unfit
from specs.market.journal import Journal, Record, State
from specs.market.objects import ObjectStore, fingerprint, stamp

LOOK_TIMEOUT_S = 10.0
"""Seconds that a look at the journal waits for a writer."""


def catalogue_of(book: Journal, objects: ObjectStore) -> Catalogue:
    """Returns the catalogue of the learnwares that the journal says are served. A canary whose learnware is not, since
    it is unfit, is left out."""
    served = book.served()
    ids = {row[0] for row in served}
    entries = (
        Entry(learnware_id, version, sha256, objects.folder(sha256), share)
        for learnware_id, version, sha256, share in served
        if share is None or learnware_of(learnware_id) in ids
    )
    return Catalogue(book.fact("sequence"), tuple(entries), book.unserved())


def find_problems(root: Path, objects: ObjectStore, book: Journal, progress: Callable[[str], object]) -> list[str]:
    """Returns everything that is wrong, in words. Reads every file of every served learnware; `progress` is told each
    id."""
    problems = [f"journal: {line}" for line in book.damage()]
    for record in book.holders():
        progress(record.id)
        problems += _problems_of(record, objects)
    known = {record.sha256 for record in book.records()}
    problems += [f"objects: nothing refers to {sha}" for sha in objects.hashes() - known]
    problems += [f"quarantine: nothing refers to {sha}" for sha in objects.quarantined_hashes() - known]
    problems += [f"incoming: {name} is left over" for name in objects.leftovers()]
    try:
        published = read_catalogue(root)
    except InvalidInput as error:
        return [*problems, str(error)]
    if published != catalogue_of(book, objects):
        problems.append(f"catalogue: sequence {published.sequence} differs from the journal")
    return problems


def examine_market(root: Path, requirements: Requirements) -> Iterator[Learnware | Unserved]:
    """Yields each learnware that holds an id in the market, canaries apart, or why it would not be served under these
    requirements; changes nothing. Weights are read by their headers alone.

    Raises:
        InvalidInput: there is no market.
    """
    objects = ObjectStore(root)
    with journal.reading(root, LOOK_TIMEOUT_S) as book:
        for record in book.holders():
            if record.share is not None:
                continue
            folder = objects.folder(str(record.sha256))
            try:
                learnware = load_learnware(folder, values=False)
            except InvalidLearnware as error:
                yield Unserved(folder, BROKEN, str(error).replace(folder.name, record.id))
                continue
            try:
                check_fits_market(learnware, requirements)
                yield learnware if requirements.served is None else served_over(learnware, requirements.served)
            except InvalidLearnware as error:
                yield Unserved(folder, UNFIT, str(error))


def repair(root: Path, objects: ObjectStore, timeout_s: float) -> None:
    """Repairs the traces of a crash, or of somebody else's hand: removes objects that nothing refers to, and puts
    learnwares whose files are not those submitted into quarantine."""
    with journal.writing(root, timeout_s) as book:
        for record in _still_holding(book):
            recheck(record, objects, book)
        known = {record.sha256 for record in book.records()}
        for sha in objects.hashes() - known:
            objects.delete(sha)
        for sha in objects.quarantined_hashes() - known:
            objects.delete_quarantined(sha)


def recheck(record: Record, objects: ObjectStore, book: Journal) -> bool:
    """Returns whether a learnware's files are those that were submitted; otherwise it is in quarantine now, and the
    very same files may be submitted again. They are read only when their names, sizes or times have changed."""
    assert record.sha256 is not None
    folder = objects.folder(record.sha256)
    now = stamp(folder)
    if now == record.stamp:
        return True
    if folder.is_dir() and fingerprint(folder) == record.sha256:
        book.set_stamp(record, now)
        return True
    withdraw_damaged(record, objects, book, "its files in the market are missing or not what was submitted")
    return False


def withdraw_damaged(record: Record, objects: ObjectStore, book: Journal, reason: str) -> None:
    """Puts a learnware into quarantine whose files in the market were harmed; what was submitted is not to blame."""
    assert record.sha256 is not None
    book.clear_origin(end(book, record, State.QUARANTINED, reason))
    book.set_fact("sequence", book.fact("sequence") + 1)
    objects.withdraw(record.sha256)


def refit(book: Journal, objects: ObjectStore, requirements: Requirements) -> list[str]:
    """Compares every learnware that holds an id with the requirements of today's configuration: from now on those are
    served that fit. One whose adapter is broken is put into quarantine. Returns the reasons why some are not served, in
    the order of their ids."""
    problems = []
    for record in _still_holding(book):
        assert record.sha256 is not None
        assert record.card is not None
        try:
            unfit = why_unfit(record.card, objects.folder(record.sha256), requirements)
        except InvalidLearnware as error:
            withdraw_damaged(record, objects, book, str(error))
            problems.append(str(error))
            continue
        if unfit is not None:
            problems.append(unfit)
        if unfit != (record.reason if record.state is State.UNFIT else None):
            book.set_unfit(record, unfit)
            book.set_fact("sequence", book.fact("sequence") + 1)
    return problems


def _still_holding(book: Journal) -> Iterator[Record]:
    """Yields the records that hold an id; not a canary that ends with its learnware while they are gone through."""
    for record in book.holders():
        if record.share is None or book.active(record.id) is not None:
            yield record


def _problems_of(record: Record, objects: ObjectStore) -> list[str]:
    assert record.sha256 is not None
    folder = objects.folder(record.sha256)
    if not folder.is_dir():
        return [f"{record.id}: its object {record.sha256} is missing"]
    if fingerprint(folder) != record.sha256:
        return [f"{record.id}: the files in {folder.name} are not what was submitted"]
    try:
        card = load_card(folder / CARD_FILE)
    except InvalidLearnware as error:
        return [f"{record.id}: {error}"]
    same = card == record.card and card.id == learnware_of(record.id)
    return [] if same else [f"{record.id}: the journal has another card"]
