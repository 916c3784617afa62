"""The files of evidence in a folder of the market: the newest one counts, and the last ones are kept to go back to.

    <market>/evidence/<number>.safetensors    one version each (`specs.evidence`); a number is never used twice

Writers take turns by a lock, and one that made its version from another than the newest is told so. A version is whole
or not there, whatever is cut.
"""

import re
from dataclasses import replace
from pathlib import Path

from specs.errors import InvalidInput
from specs.evidence import Change, Evidence, Span, dump, parse
from specs.files import file_lock, write_atomically

FOLDER = "evidence"
"""Name of the folder of evidence inside a market's folder."""
KEPT = 20
"""Versions that are kept: with one a minute while feedback comes, and none while it does not, those of some days of
quiet use or of the last minutes of an attack, which is when one wants to go back."""
LOCK = "lock"
"""Name of the file in the folder by which writers take turns."""
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

    def write(self, evidence: Evidence, after: int | None = None) -> Evidence | None:
        """Writes evidence as the newest version, and returns it with its number; the oldest versions beyond `KEPT` go.
        Returns None, and writes nothing, where the newest version is another than that of the number `after` (0: none)
        from which it was made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self._folder / LOCK):
            there = self.numbers()
            newest = there[-1] if there else 0
            if after is not None and newest != after:
                return None
            numbered = replace(evidence, number=newest + 1)
            write_atomically(self._path(numbered.number), dump(numbered))
            for old in [*there, numbered.number][:-KEPT]:
                self._path(old).unlink(missing_ok=True)
        return numbered

    def approve(self, task: str | None, learnware: str | None, now: float) -> list[Change]:
        """Puts held changes of the newest version into effect, in a new one: those of this task and this learnware,
        None meaning any. Returns them.

        Raises:
            InvalidInput: no such change is held, or other evidence came meanwhile.
        """
        newest = self.read()
        held = () if newest is None else newest.held
        wanted = [one for one in held if task in (None, one.task) and learnware in (None, one.learnware)]
        if newest is None or not wanted:
            known = ", ".join(f"{one.learnware} on {one.task}" for one in held) or "none"
            raise InvalidInput(f"no such change is held; there are: {known}")
        if self.write(newest.approving(wanted, newest.number, now), newest.number) is None:
            raise InvalidInput("other evidence came meanwhile: look at what is held now, and approve that")
        return wanted

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
        written = self.write(replace(old, made=now, set_aside=tuple(spans)), newest.number)
        if written is None:
            raise InvalidInput("other evidence came meanwhile: try again")
        return written

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.safetensors"
