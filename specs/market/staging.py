"""Takes a submission in and has it checked, up to the point where it may be served."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from specs.card import Card
from specs.errors import CheckDied, InvalidLearnware, MarketBusy, MarketUnwritable
from specs.market import journal
from specs.market.checks import Requirements
from specs.market.examination import Checks
from specs.market.intake import Limits, Progress
from specs.market.objects import fingerprint
from specs.market.quarantine import check_not_held_back
from specs.market.staged import Staged

logger = logging.getLogger("ray.serve")

_NAME_LENGTH = 64


class Refused(NamedTuple):
    """A refused submission for the quarantine: its name there, its files and their hash if they could be taken in, the
    reason, its card if it can be read, and the hash by which the same files are known again."""

    name: str
    folder: Path | None
    sha256: str | None
    reason: str
    card: Card | None = None
    origin: str | None = None


class Staging(NamedTuple):
    """The market's parts that a submission passes: bounds, requirements, checks, and the quarantine (`refuse`, which is
    None where refusals are not recorded)."""

    root: Path
    timeout_s: float
    limits: Limits
    requirements: Requirements
    checks: Checks
    refuse: Callable[[Refused], object] | None

    def stage(
        self, source: Path, place: Path, progress: Progress, recorded_as: str | None, *, unfit_too: bool
    ) -> Staged:
        """Takes `source` into the empty folder `place` and checks it there. Raises as `specs.market.store.Market.stage`
        does."""
        folder = place / _name_of(source)
        folder.mkdir()
        known_as = recorded_as or folder.name
        try:
            self.checks.take(source, folder, self.limits, progress)
        except InvalidLearnware as error:
            self._record(Refused(known_as, None, None, str(error)))
            raise InvalidLearnware(f"learnware {known_as}: {error}") from None
        origin = fingerprint(folder)
        with journal.reading(self.root, self.timeout_s) as book:
            check_not_held_back(book, origin)
        try:
            found = self.checks.check(folder, self.requirements, unfit_too=unfit_too)
        except CheckDied as error:  # whatever killed the check is not read here
            self._record(Refused(known_as, folder, fingerprint(folder), str(error), None, origin))
            raise CheckDied(f"learnware {known_as}: {error}") from None
        if found.learnware is None or found.card is None:
            reason = str(found.refusal)
            named = found.card.id if found.card else known_as
            self._record(Refused(named, folder, fingerprint(folder), reason, found.card, origin))
            raise InvalidLearnware(reason)
        learnware = found.learnware
        return Staged(learnware, found.card, fingerprint(folder), folder, origin, found.unfit, learnware.notes)

    def _record(self, refused: Refused) -> None:
        """Puts a refused submission into quarantine. That it could not be does not make the refusal another error."""
        if self.refuse is None:
            return
        try:
            self.refuse(refused)
        except (MarketBusy, MarketUnwritable) as error:
            logger.warning("learnware %s was refused (%s), and not put into quarantine: %s", *refused[::3], error)


def _name_of(source: Path) -> str:
    """Returns a plain name for a submission, made from its source's."""
    name = re.sub(r"[^\w.-]", "_", source.stem if source.suffix == ".zip" else source.name)[:_NAME_LENGTH]
    return name.strip(".") or "learnware"
