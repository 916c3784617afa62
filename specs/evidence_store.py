"""The files of evidence in a folder of the market: the newest one counts, and the last ones are kept to go back to.

    <market>/evidence/<number>.safetensors    one version each (`specs.evidence`); a number is never used twice

One process writes; any number of them read. A version is whole or not there, whatever is cut.
"""

import re
from dataclasses import replace
from pathlib import Path

from specs.errors import InvalidInput
from specs.evidence import Evidence, Span, dump, parse
from specs.files import write_atomically

FOLDER = "evidence"
"""Name of the folder of evidence inside a market's folder."""
KEPT = 20
"""Versions that are kept: with one a minute while feedback comes, and none while it does not, those of some days of
quiet use or of the last minutes of an attack, which is when one wants to go back."""
_FILE = re.compile(r"(\d{8})\.safetensors")


class EvidenceStore:
    """The versions of evidence in one folder, which is made when the first is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def numbers(self) -> list[int]:
        """Returns the numbers of the versions that are there, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(found[1]) for path in self._folder.iterdir() if (found := _FILE.fullmatch(path.name)))

    def read(self, number: int | None = None) -> Evidence | None:
        """Returns the version of this number, by default the newest; None where there is none at all.

        Raises:
            InvalidInput: there is no version of this number, or its file is damaged.
        """
        there = self.numbers()
        if number is None and not there:
            return None
        chosen = there[-1] if number is None else number
        try:
            return parse(self._path(chosen).read_bytes())
        except FileNotFoundError:
            known = ", ".join(map(str, there)) or "none"
            raise InvalidInput(f"there is no evidence of number {chosen}; there are: {known}") from None

    def write(self, evidence: Evidence) -> Evidence:
        """Writes evidence as the newest version, and returns it with its number. The oldest versions beyond `KEPT` go."""
        there = self.numbers()
        numbered = replace(evidence, number=(there[-1] if there else 0) + 1)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(numbered.number), dump(numbered))
        for old in [*there, numbered.number][:-KEPT]:
            self._path(old).unlink(missing_ok=True)
        return numbered

    def roll_back(self, number: int, now: float) -> Evidence:
        """Makes the version of this number the newest again, under a new number. Feedback that came after it was made,
        up to now, is set aside from then on: else the learner would learn the same again.

        Raises:
            InvalidInput: there is no such version.
        """
        old = self.read(number)
        newest = self.read()
        if old is None or newest is None:
            raise InvalidInput("there is no evidence to go back to")
        spans = dict.fromkeys([*old.set_aside, *newest.set_aside, Span(old.made, now)])
        return self.write(replace(old, made=now, set_aside=tuple(spans)))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.safetensors"
