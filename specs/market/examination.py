"""The checks that a submission passes before it may be served, as steps that can run outside the market's process.

Nothing here knows the journal. `Checks` is the seam: `ChecksHere` runs a step in this process, for the command line,
whose user chose what it reads; `specs.market.child_checks` runs it in a process of its own, for what strangers upload.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from specs.adapter_conversion import make_servable
from specs.capability import CAPABILITY_FILE
from specs.card import CARD_FILE, Card, load_card, readable_card
from specs.errors import InvalidLearnware
from specs.learnware import SPECIFICATION_FOLDER, Learnware, load_learnware
from specs.market.checks import Requirements, check_learnware
from specs.market.geometry import check_geometry
from specs.market.intake import Limits, Progress, take


class Checked(NamedTuple):
    """The result of checking a taken submission: its learnware, or None and the `refusal`; its card where it can be
    read; and why it does not fit today's configuration, where that refuses nothing."""

    learnware: Learnware | None
    card: Card | None
    unfit: str | None = None
    refusal: str | None = None


class Checks(Protocol):
    """The steps of an examination. Each raises InvalidLearnware where the submission is to blame."""

    def take(self, source: Path, folder: Path, limits: Limits, progress: Progress) -> None:
        """Copies the learnware in `source`, a folder or a zip, into the empty `folder` (`specs.market.intake.take`)."""

    def check(self, folder: Path, requirements: Requirements, *, unfit_too: bool) -> Checked:
        """Makes the taken files servable and checks them (`checked`)."""

    def check_again(self, folder: Path, requirements: Requirements) -> Learnware:
        """Checks a submission to whose files something was added (`specs.market.checks.check_learnware`)."""


class ChecksHere:
    """The steps, run in this process and thread."""

    def take(self, source: Path, folder: Path, limits: Limits, progress: Progress) -> None:
        take(source, folder, limits, progress)

    def check(self, folder: Path, requirements: Requirements, *, unfit_too: bool) -> Checked:
        return checked(folder, requirements, unfit_too=unfit_too)

    def check_again(self, folder: Path, requirements: Requirements) -> Learnware:
        return check_learnware(folder, requirements)


def checked(folder: Path, requirements: Requirements, *, unfit_too: bool) -> Checked:
    """Checks the learnware in `folder`, a copy of our own, and changes what must be changed for it to be served. With
    `unfit_too` one that is whole but does not fit today's configuration is no refusal. A capability of another base
    model, which nobody must read, is removed."""
    try:
        if not unfit_too:
            check_geometry(folder, requirements)
        changes = make_servable(folder, requirements.base)
        learnware, unfit = _learnware(folder, requirements, unfit_too=unfit_too)
        card = load_card(folder / CARD_FILE)
    except InvalidLearnware as error:
        return Checked(None, readable_card(folder / CARD_FILE), refusal=str(error))
    if learnware.capability is None:
        (folder / SPECIFICATION_FOLDER / CAPABILITY_FILE).unlink(missing_ok=True)
    return Checked(replace(learnware, notes=(*changes, *learnware.notes)), card, unfit)


def _learnware(folder: Path, requirements: Requirements, *, unfit_too: bool) -> tuple[Learnware, str | None]:
    try:
        return check_learnware(folder, requirements), None
    except InvalidLearnware as error:
        if not unfit_too:
            raise
        with suppress(InvalidLearnware):
            return load_learnware(folder), str(error)
        raise
