"""The changes of canaries in the journal. Each is part of a change that the caller makes, under the market's lock.

A learnware has at most one canary. Its record has the canary's id (`specs.canary`), so it is served as any other; it
ends as `REPLACED` where its version became the learnware's, and as `REMOVED` or `QUARANTINED` where it did not.
"""

from specs.canary import canary_id, learnware_of
from specs.errors import InvalidInput, InvalidLearnware, UnknownCanary
from specs.market.acceptance import holder
from specs.market.journal import Journal, Record, State

PROMOTED, ROLLED_BACK = "promoted", "rolled back"
"""The outcomes of a canary."""


def outcome(record: Record) -> str | None:
    """Returns the outcome of a canary's record; None while it runs."""
    if record.state in (State.ACTIVE, State.UNFIT):
        return None
    return PROMOTED if record.state is State.REPLACED else ROLLED_BACK


def running(book: Journal, learnware_id: str, sha256: str | None = None) -> Record:
    """Returns the canary of a learnware.

    Raises:
        UnknownLearnware: there is no learnware of that id.
        UnknownCanary: it has no canary, or not the one with these files (`sha256`, where it is given).
    """
    learnware_id = learnware_of(learnware_id)
    active = holder(book, learnware_id)
    canary = book.active(canary_id(learnware_id))
    if canary is None:
        raise UnknownCanary(f"learnware {active.id!r} has no canary")
    if sha256 is not None and canary.sha256 != sha256:
        raise UnknownCanary(f"the canary of learnware {active.id!r} is another one by now, version {canary.version}")
    return canary


def promote(book: Journal, learnware_id: str, sha256: str | None, reason: str | None) -> Record:
    """Makes a canary's version the learnware's, and returns its new record. Raises as `running`, and InvalidLearnware
    while the canary does not fit the configuration."""
    canary = running(book, learnware_id, sha256)
    if canary.state is State.UNFIT:
        raise InvalidLearnware(f"the canary of learnware {learnware_of(canary.id)!r} is not served: {canary.reason}")
    book.end(holder(book, learnware_of(canary.id)), State.REPLACED)
    book.end(canary, State.REPLACED, reason)
    return book.add(
        learnware_of(canary.id),
        State.ACTIVE,
        version=canary.version,
        sha256=canary.sha256,
        card=canary.card,
        stamp=canary.stamp,
        origin=canary.origin,
        notes=canary.notes,
    )


def roll_back(book: Journal, learnware_id: str, sha256: str | None, reason: str) -> Record:
    """Ends a canary and returns its record. Raises as `running`, and InvalidInput where the reason is empty."""
    if not reason.strip():
        raise InvalidInput("a canary is rolled back with a reason")
    return book.end(running(book, learnware_id, sha256), State.REMOVED, reason)


def end(book: Journal, record: Record, state: State, reason: str | None = None) -> Record:
    """Ends the record of a learnware or a canary, and returns it; a learnware's canary ends with it."""
    canary = None if record.share is not None else book.active(canary_id(record.id))
    if canary is not None:
        why = "was removed" if state is State.REMOVED else f"was put into quarantine: {reason}"
        book.end(canary, State.REMOVED, f"its learnware {why}")
    return book.end(record, state, reason)
