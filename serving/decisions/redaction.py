"""Takes out of a kept text what tells who somebody is or opens something: e-mail addresses, telephone numbers, card
numbers, keys, and whatever the operator's own patterns match.

It errs on the side of taking out. It is no anonymisation: names and what is told about people stay.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import regex

from specs.errors import InvalidConfig

SECONDS = 0.25
"""Seconds that one of the operator's patterns may take on one text."""
TOO_LONG = "[not kept: a pattern of decisions.redact took too long]"
CARD_DIGITS = range(13, 20)
"""Digits that card numbers have (ISO/IEC 7812)."""
LONG_TOKEN = 32
"""Characters from which a word of letters and digits counts as a key."""

# Texts are strangers': what may fail after a repetition bounds it, so that no text takes longer than its length says.
_EMAIL = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_PEM = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_MARKED_KEY = re.compile(
    r"\b(?:(?:sk|pk|rk|lw|hf|ghp|gho|ghs|ghu|ghr|glpat|xox[abeoprs]|github_pat|api|key|token)[-_][\w-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{20,}|eyJ[\w-]{8,1024}\.[\w-]{8,}(?:\.[\w-]*)?)"
)
_LONG_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{LONG_TOKEN},}}")
_DIGITS = re.compile(r"\d+(?:[ -]\d+)*")
_PHONE = re.compile(
    r"(?<![\w.])(?:(?:\+|00)\d[\d ()./-]{6,18}\d|\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}"
    r"|\(?0\d{2,4}\)?[ /-]\d[\d -]{4,10}\d)(?!\w)"
)


class Redactor:
    """Redacts texts. Safe to use from several threads."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        """Makes a redactor with further patterns.

        Raises:
            InvalidConfig: one of them is no regular expression.
        """
        self._own = [compiled(pattern) for pattern in patterns]

    def redacted(self, text: str) -> str:
        """Returns the text with all of it replaced by what it was, such as `[e-mail]`."""
        text = _PEM.sub("[key]", text)
        text = _BEARER.sub(r"\1 [key]", text)
        text = _MARKED_KEY.sub("[key]", text)
        text = _LONG_TOKEN.sub(_key_if_mixed, text)
        text = _EMAIL.sub("[e-mail]", text)
        text = _DIGITS.sub(_without_cards, text)
        text = _PHONE.sub("[phone]", text)
        for own in self._own:
            try:
                text = own.sub("[redacted]", text, timeout=SECONDS)
            except TimeoutError:
                return TOO_LONG
        return text


def compiled(pattern: str) -> "regex.Pattern[str]":
    """Returns a pattern of the operator's.

    Raises:
        InvalidConfig: it is no regular expression.
    """
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise InvalidConfig(f"decisions.redact: {pattern!r} is no regular expression: {error}") from None


def _key_if_mixed(found: "re.Match[str]") -> str:
    word = found[0]
    mixed = any(one.isdigit() for one in word) and any(one.isalpha() for one in word)
    return "[key]" if mixed else word


def _without_cards(found: "re.Match[str]") -> str:
    """Replaces whole groups of digits that together are a card number."""
    text = found[0]
    groups = list(re.finditer(r"\d+", text))
    taken: list[tuple[int, int]] = []
    first = 0
    while first < len(groups):
        last = _end_of_card(groups, first)
        if last is None:
            first += 1
        else:
            taken.append((groups[first].start(), groups[last].end()))
            first = last + 1
    places = [0, *(place for pair in taken for place in pair), len(text)]
    kept = [text[start:end] for number, (start, end) in enumerate(pairwise(places)) if number % 2 == 0]
    return "[card]".join(kept)


def _end_of_card(groups: Sequence["re.Match[str]"], first: int) -> int | None:
    """Returns the index of the group with which a card number ends that begins with the group `first`; None where none
    does."""
    digits = ""
    for last in range(first, len(groups)):
        digits += groups[last][0]
        if len(digits) >= CARD_DIGITS.stop:
            return None
        if _is_card(digits):
            return last
    return None


def _is_card(digits: str) -> bool:
    """Whether these digits have a card number's length, a network's first digit and Luhn's check digit."""
    if len(digits) not in CARD_DIGITS or digits[0] not in "23456":
        return False
    doubled = (int(one) * (2 if place % 2 else 1) for place, one in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
