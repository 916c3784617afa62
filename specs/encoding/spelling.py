"""Mends slips of the keyboard before a text is embedded: a letter left out, doubled, mistaken or swapped.

A sub-word tokenizer cuts a misspelt word into pieces that mean something else, and a short question stands or falls
with three or four words. Known words are the whole words of the tokenizer's own vocabulary, which it lists by
frequency; an unknown word is taken for the commonest known one at one slip's distance (Norvig 2007, "How to Write a
Spelling Corrector"). Most names and terms have no common word so near and stay as they are; those that do are misread
("statin" as station, "stent" as sent), in the vector only: the model gets the prompt as it was written.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

LEAST_LETTERS = 5
"""The fewest letters of a word that is mended: most shorter strings are one slip from a word."""
COMMONEST = 16_000
"""Rank of the rarest word that a slip may be mended to: the more there are, the more terms are near to one by
chance."""
KEPT = 8192
"""Words whose mended form is kept; a new unknown one takes about 0.2 ms."""
_WORD = re.compile(rf"[^\W\d_]{{{LEAST_LETTERS},24}}")
_ENDINGS = ("s", "es", "d", "ed", "ing", "ly")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Spelling:
    """Mends slips by one vocabulary. Safe to use from several threads."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        """`vocabulary` maps a tokenizer's tokens to their ids, which rise as words get rarer."""
        self._known = frozenset(vocabulary)
        self._mended = lru_cache(KEPT)(self._mended_anew)
        self._common = {
            word: number
            for word, number in vocabulary.items()
            if number < COMMONEST and len(word) >= LEAST_LETTERS - 1 and word.isalpha()
        }

    def mended(self, text: str) -> str:
        """Returns the text with its slips mended; case is lost in mended words only."""
        return _WORD.sub(lambda match: self._mended(match[0]), text)

    def _mended_anew(self, word: str) -> str:
        lower = word.lower()
        if lower in self._known or not lower.isascii() or self._is_inflected(lower):
            return word
        near = [one for one in _one_slip_away(lower) if one in self._common]
        return min(near, key=self._common.__getitem__) if near else word

    def _is_inflected(self, word: str) -> bool:
        """Whether the word is a known word with an ending."""
        return any(word.endswith(end) and word[: -len(end)] in self._known for end in _ENDINGS)


def _one_slip_away(word: str) -> Iterable[str]:
    halves = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    for head, tail in halves:
        if tail:
            yield head + tail[1:]
            if len(tail) > 1:
                yield head + tail[1] + tail[0] + tail[2:]
            for letter in _LETTERS:
                yield head + letter + tail[1:]
        for letter in _LETTERS:
            yield head + letter + tail
