"""Degenerate answers: those that no one who asked for sentences can use, told from the text alone, in any language.

A learnware that is asked something else than its task falls into a few ways of failing, and all of them can be seen
without a reference answer: it says nothing, it goes round in a circle, or it gives a bare label, letter or number. An
answer that is short, or dull, or wrong is not degenerate here; neither are lists, code, tables, and poems with a
refrain.

Pure functions of text. Lengths are counted so that scripts without spaces are not at a disadvantage: an ideograph, a
kana or a Hangul syllable weighs as much as WIDE Latin letters.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

WIDE = 3.0
"""Letters of an alphabet that say as much as one character of a script of syllables or words."""
WINDOW = 2000
"""Characters that are looked at, from the end: an answer that ends in a circle goes on so."""

ROUNDS = 3
"""Repetitions without a gap from which on a text is a circle if it is little else."""
MOSTLY = 0.6
"""Share of a text that counts as "little else"."""
TAIL_ROUNDS = 4
"""Repetitions without a gap from which on a text's end is a circle, whatever stands before."""
LONGEST_PERIOD = 240
"""The longest repeated piece that is looked for, in characters."""
LEAST_CIRCLE, LEAST_TAIL = 20.0, 30.0
"""The least weight of a circle, over all its repetitions, in Latin letters; the second bound is for a circle at a
text's end. "no, no, no!" is no circle yet, nor "ha ha ha"."""
LONELY_CHARACTER = 16
"""Repetitions from which on a single character is a circle: "Nooooo!" is none."""
LEAST_DIGITS = 24
"""The least weight of a circle without letters: 10/3 has 17 digits as computers print it."""

SENTENCES = 4
"""Sentences or lines from which on it matters how many of them are the same."""
SAME_SENTENCES = 0.75
"""The largest share of equal sentences that is not yet too much: a birthday song's."""
LEAST_SENTENCE = 10.0
"""The least weight of a sentence that is counted, in Latin letters."""
WORDS = 24
"""Words from which on it matters how few of them are distinct."""
DISTINCT = 0.25
"""The least share of distinct words among the last `2 * WORDS` words; 40 words of prose have about 0.75, song texts
about 0.4."""

SPOKEN_WORDS = 8
"""Words from which on an answer is taken to be in sentences."""
BARE_WORDS = 3
"""The most words of a bare answer that does not end as a sentence does."""
LETTERS_A_WORD = 12
"""Letters of scripts without spaces that count as one word; that many for two words are more than a single word."""

_SEPARATORS = re.compile(r"[\s,;:/|&+.!?。，、；：！？·*_#`\"'()\[\]{}<>\-–—]+")
_LEADS = re.compile(r"^(?:(?:the )?(?:final )?answer(?: is)? ?:?|答案是? ?:?) ?(?=\S)")
_NUMBER = re.compile(r"[(\[]?[-+±~≈−]? ?[$€£¥₹]? ?\d+(?:[.,:/ ]\d+)*\.? ?[%‰°$€£¥₹]?[)\]]?")
_OPTION = re.compile(r"[(\[]?[a-z][)\].:]?")
_ENUMERATOR = re.compile(r"^\s*(?:\d{1,3}[.)、:：]|[-*•·])\s*")
_BREAKS = re.compile(r"[\n\r]+|(?<=[.!?;])\s+|(?<=[。！？；])")
_END = re.compile(r"[.!?…。！？؟।][\"'”’)\]*]*$")


class Fault(StrEnum):
    """The ways in which an answer is degenerate."""

    NOTHING = "nothing"
    """The answer is empty, or has no letter, digit or symbol."""
    CIRCLE = "circle"
    """A phrase is repeated over and over."""
    BARE = "bare"
    """A label, a letter or a number answers a question that wants sentences."""


def is_degenerate(answer: str, *, labels: Collection[str] = (), base: str | None = None) -> bool:
    """Whether `fault_of` finds a fault in an answer."""
    return fault_of(answer, labels=labels, base=base) is not None


def is_degenerate_beside(answer: str, base: str, labels: Collection[str] = ()) -> bool:
    """Whether an answer is degenerate where the base model's answer to the same question is not."""
    return is_degenerate(answer, labels=labels, base=base) and not is_degenerate(base)


def fault_of(answer: str, *, labels: Collection[str] = (), base: str | None = None) -> Fault | None:
    """Returns the fault of an answer to a question that wants sentences, or None.

    The answer may be cut off anywhere. `labels` are those that the learnware answers its own task with; one of them
    alone, or several, is bare. `base` is the base model's answer to the same question, which shows what the question
    wants. A few words that are its gist ("1945", "Paris" where it says so in a sentence) are not bare, while other few
    words are where it speaks in sentences. Without it only labels, single letters and numbers are bare: "Paris." may be
    all that was asked for.
    """
    text = _normalised(answer)
    if not any(_says_something(character) for character in text):
        return Fault.NOTHING
    if _goes_in_circles(text) or _repeats_sentences(answer) or _has_few_words(text):
        return Fault.CIRCLE
    if _is_bare(text, labels, None if base is None else _normalised(base)):
        return Fault.BARE
    return None


def _normalised(text: str) -> str:
    """Makes compatible forms and cases alike and white space single, and drops the character that a cut left broken."""
    return " ".join(unicodedata.normalize("NFKC", text.rstrip("\ufffd")).casefold().split())


def _says_something(character: str) -> bool:
    """Whether a character is a letter, a digit, a picture, or a mathematical symbol that no keyboard has; the
    replacement character, which a decoder puts for bytes that are no text, is not."""
    kind = unicodedata.category(character)
    return (kind[0] in "LN" or kind == "So" or (kind == "Sm" and ord(character) > 0x7F)) and character != "\ufffd"


def _is_wide(character: str) -> bool:
    """Whether a character is an ideograph, a kana or a Hangul syllable."""
    return unicodedata.east_asian_width(character) in "WF" and character.isalpha()


def _weight(text: str) -> float:
    """Returns the weight of a text in Latin letters."""
    return sum(WIDE if _is_wide(character) else 1.0 for character in text)


def _goes_in_circles(text: str) -> bool:
    """Whether one piece is repeated without a gap, over most of the text or up to its end."""
    text = text[-WINDOW:]
    codes = np.array([ord(character) for character in text])
    weights = np.cumsum([0.0, *(WIDE if _is_wide(character) else 1.0 for character in text)])
    for period in range(1, min(LONGEST_PERIOD, (len(text) + 1) // ROUNDS) + 1):
        same = np.concatenate([[False], codes[period:] == codes[:-period], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        if not len(edges):
            continue
        begins, ends = edges[::2], edges[1::2] + period
        longest = int((ends - begins).argmax())
        spans = {(int(begins[longest]), int(ends[longest])), (int(begins[-1]), int(ends[-1]))}
        if any(_is_circle(text, begin, end, period, weights) for begin, end in spans):
            return True
    return False


def _is_circle(text: str, begin: int, end: int, period: int, weights: NDArray[np.float64]) -> bool:
    """Whether text[begin:end], which has this period, is too much of one piece."""
    rounds = (end - begin + 1) / period  # the last one may lack the space after it
    weight = float(weights[end] - weights[begin])
    share = weight / float(weights[-1])
    piece = text[begin : begin + period]
    if period == 1 and rounds < LONELY_CHARACTER:
        return False
    if not any(character.isalpha() for character in piece):
        has_digit = any(character.isdigit() for character in piece)
        return has_digit and weight >= LEAST_DIGITS and share >= MOSTLY and rounds >= TAIL_ROUNDS
    if rounds >= ROUNDS and weight >= LEAST_CIRCLE and share >= MOSTLY:
        return True
    if rounds >= TAIL_ROUNDS and share >= 1 - 1e-9 and _weight(piece.strip(" .,;:!?")) >= WIDE:
        return True
    return rounds >= TAIL_ROUNDS and weight >= LEAST_TAIL and end == len(text)


def _repeats_sentences(answer: str) -> bool:
    """Whether most of many sentences or lines are the same one, whatever they are numbered by."""
    parts = (_normalised(_ENUMERATOR.sub("", part)) for part in _BREAKS.split(answer[-WINDOW:]))
    sentences = [part for part in parts if _weight(re.sub(r"[\W\d_]", "", part)) >= LEAST_SENTENCE]
    if len(sentences) < SENTENCES:
        return False
    return max(Counter(sentences).values()) > SAME_SENTENCES * len(sentences)


def _has_few_words(text: str) -> bool:
    words = [word for word in _words(text) if any(character.isalpha() for character in word)][-2 * WORDS :]
    return len(words) >= WORDS and len(set(words)) < DISTINCT * len(words)


def _words(text: str) -> list[str]:
    """Returns the words between spaces and punctuation; a wide character is a word of its own."""
    apart = "".join(f" {character} " if _is_wide(character) else character for character in text)
    return [word for word in _SEPARATORS.split(apart) if word]


def _word_count(text: str) -> float:
    """Counts words: two wide characters make one, and so do LETTERS_A_WORD letters without a space (Thai, Khmer)."""
    words = _words(text)
    letters = sum(unicodedata.category(character)[0] in "LM" and not _is_wide(character) for character in text)
    return max(sum(0.5 if len(word) == 1 and _is_wide(word) else 1.0 for word in words), letters / LETTERS_A_WORD)


def _is_bare(text: str, labels: Collection[str], base: str | None) -> bool:
    core = _core(text)
    if base is not None and (_core(base) == core or _opens_with(base, core)):
        return False
    if _is_made_of(core, {_core(_normalised(label)) for label in labels}):
        return True
    if _OPTION.fullmatch(core):
        return True
    is_number = _NUMBER.fullmatch(core) is not None
    if base is None:
        return is_number
    if f" {' '.join(_words(core))} " in f" {' '.join(_words(base))} ":
        return False
    if is_number:
        return True
    if _word_count(base) < SPOKEN_WORDS:
        return False
    count = _word_count(core)
    return count < 2 or (count <= BARE_WORDS and not _END.search(text))


def _core(text: str) -> str:
    """Returns an answer without "Answer:" before it and punctuation around it."""
    stripped = text.strip(" .,;:!?。，；：！？*_#`\"'“”‘’\n")
    return _LEADS.sub("", stripped).strip(" .,;:!?。，；：！？*_#`\"'“”‘’") or stripped


def _opens_with(base: str, core: str) -> bool:
    words, opening = _words(core), _words(base)
    return bool(words) and opening[: len(words)] == words


def _is_made_of(core: str, labels: Collection[str]) -> bool:
    """Whether a text is one of the labels, or several with nothing but separators between them."""
    rest = core
    for label in sorted((label for label in labels if label), key=len, reverse=True):
        if rest == label:
            return True
        bounded = re.escape(label) if _is_wide(label[0]) else rf"(?<!\w){re.escape(label)}(?!\w)"
        rest = re.sub(bounded, " ", rest)
    return bool(labels) and rest != core and not any(_says_something(character) for character in rest)
