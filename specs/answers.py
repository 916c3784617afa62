"""What the answers of a task are: one of a few labels, a letter, a number, a short span, or free text.

It decides how answers can be judged. Labels and letters are chosen among; numbers and spans are short enough to be said
exactly; sentences never are, so they are judged by how likely they are, a token, and by overlap.
"""

import re
import statistics
from collections.abc import Sequence
from typing import Literal

AnswerKind = Literal["label", "letter", "number", "span", "text"]

TEXT_WORDS = 8
"""Answers whose median has more words than this are text. Extracted spans have 1 to 3 at the median (12 at the ninth
decile), one-sentence definitions 24, so any line between 4 and 20 draws the same border."""
MOSTLY = 0.9
"""Share of a task's answers that must be numbers."""

_NUMBER = re.compile(r"[-+−]?\s*[$€£]?\s*[-+−]?\d[\d,.\s/]*(?:e[-+]?\d+)?\s*%?", re.IGNORECASE)
_LETTER = re.compile(r"[A-Z]")


def answer_kind(answers: Sequence[str], choices: Sequence[Sequence[str]] = ()) -> AnswerKind:
    """The kind of a task's answers: of all of them together, since a task that is answered in sentences now and then is
    answered in one word.

    `choices` are those of each row, empty where any answer may be given: labels hold the answer itself; beside a letter
    they are the texts of the options. Without choices a task with single letters for answers is one of letters, too.

    Raises:
        ValueError: there is no answer.
    """
    if not answers:
        raise ValueError("the kind of no answers at all is not defined")
    if choices and all(choices):
        named = sum(answer in offered for answer, offered in zip(answers, choices, strict=True))
        return "label" if named * 2 > len(answers) else "letter"
    if statistics.median(_words(answer) for answer in answers) > TEXT_WORDS:
        return "text"
    if _share(_NUMBER, answers) >= MOSTLY:
        return "number"
    return "letter" if _share(_LETTER, answers) >= MOSTLY else "span"


def _words(text: str) -> float:
    """Words; of scripts without spaces two characters make one."""
    wide = sum("぀" <= character <= "鿿" for character in text)
    return len(text.split()) + wide / 2


def _share(pattern: re.Pattern[str], answers: Sequence[str]) -> float:
    return sum(bool(pattern.fullmatch(answer.strip())) for answer in answers) / len(answers)
