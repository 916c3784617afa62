"""Bounds on the texts of a card: how long they may be, and which characters they may hold.

Cards are written by strangers and shown by everybody: in `GET /v1/learnwares` and `GET /v1/models`, in terminals, in
other people's pages. A control character moves a terminal's cursor, a bidirectional override shows `exe.txt` where
`txt.exe` stands, and a name with markup becomes markup in a page that forgets to escape it. So texts that are shown as
names hold none of these. Descriptions and examples are prose, which may speak of `<p>` or of a < b: they stay the text
that they are, and whoever shows them in a page escapes them, as any text.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from specs.card import Card

VERSION = 1_000_000_000
"""The highest version; the journal keeps 64 bits."""
ENTRIES = 256
"""The most entries of a list in a card."""
_TAG = re.compile(r"<[A-Za-z/!?]")
"""The beginning of what an HTML parser takes for markup."""
_ADDRESS = re.compile(r"<[^\s<>@\"'=]+@[^\s<>@\"'=]+>")
"""An e-mail address in angle brackets, as authors write it."""
_JOINERS = "\u200c\u200d"
"""Format characters that spelling needs: Persian and Indic words, and emoji made of several."""
_REFUSED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Unicode's categories of what has no shape of its own: controls, formats (all bidirectional marks among them),
surrogates, private use, separators of lines and paragraphs."""


class Kind(NamedTuple):
    """The bounds of one field: its most characters, and whether it is prose of several lines."""

    length: int
    prose: bool = False


FIELDS = {
    "name": Kind(200),
    "description": Kind(8_000, prose=True),
    "base_model.id": Kind(1_000),
    "base_model.revision": Kind(200),
    "domain": Kind(100),
    "tasks": Kind(100),
    "languages": Kind(40),
    "licence": Kind(200),
    "author": Kind(500),
    "source": Kind(8_000, prose=True),
    "training": Kind(8_000, prose=True),
    "semantics.data_type": Kind(100),
    "semantics.task_type": Kind(100),
    "semantics.library_type": Kind(100),
    "semantics.scenarios": Kind(100),
    "examples": Kind(16_000, prose=True),
}
"""Bounds of a card's texts by their fields."""


def card_fault(card: "Card") -> str | None:
    """Returns what is wrong with the texts or the numbers of a card, as a sentence that names the field and says what
    would be right; None if nothing is."""
    if card.version > VERSION:
        return f"version must be at most {VERSION}"
    for field, kind in FIELDS.items():
        texts = list(_texts(card, field))
        if len(texts) > ENTRIES:
            return f"{field} has {len(texts)} entries; {ENTRIES} are the most"
        for text in texts:
            if fault := text_fault(text, kind):
                return f"{field} {fault}"
    return None


def text_fault(text: str, kind: Kind) -> str | None:
    """Returns what is wrong with one text, as the rest of a sentence that begins with its name; None if nothing is."""
    if len(text) > kind.length:
        return f"has {len(text)} characters; {kind.length} are the most"
    allowed = f"{_JOINERS}\n\r\t" if kind.prose else _JOINERS
    for character in text:
        if character not in allowed and unicodedata.category(character) in _REFUSED:
            return (
                f"holds the character U+{ord(character):04X} ({_named(character)}), which is not shown as itself; take "
                "it out"
            )
    if not kind.prose and _TAG.search(_ADDRESS.sub("", text)):
        return "holds what a page may take for markup (<…); names are plain text: take it out"
    return None


def printable(text: str, kind: Kind) -> str:
    """Returns a text without the characters that a field of this kind must not hold, cut to its length."""
    allowed = f"{_JOINERS}\n\r\t" if kind.prose else _JOINERS
    kept = (each for each in text if each in allowed or unicodedata.category(each) not in _REFUSED)
    return "".join(kept)[: kind.length]


def _texts(card: "Card", field: str) -> Iterator[str]:
    section, _, name = field.rpartition(".")
    value = getattr(getattr(card, section) if section else card, name)
    if isinstance(value, str):
        yield value
    elif isinstance(value, Iterable):
        yield from value


def _named(character: str) -> str:
    return unicodedata.name(character, "a control character").lower()
