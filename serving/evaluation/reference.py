"""Measures an answer against the right one, by the kind of the right one, as scores of learnwares do
(`serving.training.scoring`, `serving.training.free_text`).

A right answer of some words (a label, a letter, a span) must be given exactly, up to case, punctuation around it and a
lead such as "Answer:"; of a number the last number of the answer counts; so it does where a right answer in sentences
ends with a number, as worked solutions do. Another one in sentences is compared by ROUGE-L (Lin 2004), the F-measure of
the longest common subsequence of words.
"""

import math
import re
import unicodedata

from specs.answers.description import answer_kind

NEAR = 0.05
"""Difference of two measures within which the answers are equally good: ROUGE-L of two wordings of one answer differs
by more."""
SAME_NUMBER = 1e-6
"""Relative difference up to which two numbers are one."""
WORDS = 4096
"""The most words of an answer that are compared."""

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"\w")
_LEAD = re.compile(r"^(?:(?:the )?(?:final |correct |right )?(?:answer|option)(?: is)?|答案是?)(?:\s*:\s*|\s+)(?=\S)")
_AROUND = " \t\n.,;:!?。，；：！？*_#`\"'“”‘’()[]"
_WIDE = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"[{_WIDE}]|[^\W_{_WIDE}]+")
"""Words of letters and digits; of scripts without spaces each character."""


def measure(answer: str, right: str) -> float:
    """Returns how good an answer is beside the right one, from 0 to 1."""
    kind = answer_kind([right])
    if kind == "number":
        return float(_same_number(_last_number(answer), _last_number(right)))
    if kind == "text":
        numbers = list(_NUMBER.finditer(right))
        if numbers and not _WORD.search(right, numbers[-1].end()):
            return float(_same_number(_last_number(answer), _last_number(right)))
        return rouge_l(answer, right)
    return float(_plain(answer) == _plain(right))


def verdict(first: str, second: str, right: str) -> float:
    """Returns 1.0 where the second answer is nearer to the right one, -1.0 where the first is, 0.0 where both are as
    near."""
    difference = measure(second, right) - measure(first, right)
    return 0.0 if abs(difference) <= NEAR else math.copysign(1.0, difference)


def rouge_l(answer: str, right: str) -> float:
    """Returns the F-measure of the longest common subsequence of words, from 0 to 1."""
    own, other = (_WORDS.findall(text.casefold())[:WORDS] for text in (answer, right))
    if not own or not other:
        return 0.0
    common = _common(own, other)
    return 2 * common / (len(own) + len(other))


def _common(first: list[str], second: list[str]) -> int:
    """Returns the length of the longest common subsequence, by whole numbers as rows of bits (Hyyrö 2004): a row of the
    table is one addition."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        met = row & places.get(word, 0)
        row = ((row + met) | (row - met)) & full
    return len(first) - row.bit_count()


def _plain(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)
    return _LEAD.sub("", text).strip(_AROUND) or text


def _last_number(text: str) -> float | None:
    numbers = _NUMBER.findall(unicodedata.normalize("NFKC", text).replace("−", "-"))
    return _value(numbers[-1]) if numbers else None


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _same_number(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=SAME_NUMBER)
