"""Description of a task's answers: one of a few labels, a letter, a number, a short span, or free text.

It decides how answers can be judged. Labels and letters are chosen among; numbers and spans are short enough to be said
exactly; sentences never are, so they are judged by how likely they are, a token, and by overlap.
"""

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from specs.answers.options import offers_letters
from specs.errors import InvalidSpecification

AnswerKind = Literal["label", "letter", "number", "span", "text"]
"""The kinds of answers; a task has one."""

TEXT_WORDS = 8
"""The largest median of words of answers that are not text. Extracted spans have 1 to 3 at the median (12 at the ninth
decile), one-sentence definitions 24, so any line between 4 and 20 draws the same border."""
MOSTLY = 0.9
"""The least share of a task's answers that must be numbers, or letters, for the task to be of that kind."""

_NUMBER = re.compile(r"[-+−]?\s*[$€£]?\s*[-+−]?\d[\d,.\s/]*(?:e[-+]?\d+)?\s*%?", re.IGNORECASE)
_LETTER = re.compile(r"[A-Z]")


def answer_kind(answers: Sequence[str], choices: Sequence[Sequence[str]] = ()) -> AnswerKind:
    """Returns the kind of a task's answers, of all of them together: a task that is answered in one word may now and
    then be answered in sentences.

    `choices` are those of each row, empty where any answer may be given: for labels they hold the answer itself, beside
    a letter the texts of the options. Without choices a task with single letters for answers is one of letters, too.

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
    """Counts words; in scripts without spaces two characters make one."""
    wide = sum("぀" <= character <= "鿿" for character in text)
    return len(text.split()) + wide / 2


def _share(pattern: re.Pattern[str], answers: Sequence[str]) -> float:
    return sum(bool(pattern.fullmatch(answer.strip())) for answer in answers) / len(answers)


MOST_LABELS = 64
"""The most labels that are kept: a task with more of them is described by the commonest."""
LABEL_CHARS = 120
"""The longest label that is kept, in characters; a longer one is cut."""
LENGTH_QUANTILES = (0.1, 0.5, 0.9)
"""Quantiles of the answers' lengths that are kept."""
KINDS: tuple[str, ...] = get_args(AnswerKind)
"""The values of `AnswerKind`."""


class Answers(NamedTuple):
    """Description of a learnware's answers. `labels` are those of a labelling task, the commonest first, else empty;
    `words` are the `LENGTH_QUANTILES` of the answers' lengths in words."""

    kind: AnswerKind
    labels: tuple[str, ...]
    words: tuple[float, float, float]

    @property
    def in_sentences(self) -> bool:
        """Whether the learnware answers in free text, so that it can explain something."""
        return self.kind == "text"

    def __str__(self) -> str:
        named = f" ({', '.join(self.labels[:8])}{', …' if len(self.labels) > 8 else ''})" if self.labels else ""
        low, middle, high = self.words
        return f"{self.kind}{named}, {low:g} to {high:g} words, {middle:g} in the middle"


def describe_answers(
    answers: Sequence[str], choices: Sequence[Sequence[str]] = (), prompts: Sequence[str] = ()
) -> Answers:
    """Describes the answers of one task; `choices` are as in `answer_kind`. Letters are labels where most of the
    `prompts`, if given, offer no options with letters. Raises ValueError when there is no answer."""
    kind = answer_kind(answers, choices)
    if kind == "letter" and sum(map(offers_letters, prompts)) * 2 < len(prompts):
        kind = "label"
    counted = Counter(answer[:LABEL_CHARS] for answer in answers) if kind == "label" else Counter()
    lengths = sorted(_words(answer) for answer in answers)
    low, middle, high = (lengths[round(share * (len(lengths) - 1))] for share in LENGTH_QUANTILES)
    return Answers(kind, tuple(label for label, _ in counted.most_common(MOST_LABELS)), (low, middle, high))


def answers_to_dict(answers: Answers) -> dict[str, Any]:
    """Returns the description as it stands in `specification.json`."""
    return {"kind": answers.kind, "labels": list(answers.labels), "words": list(answers.words)}


def answers_from(values: Any) -> Answers:
    """Reads and checks a description that `answers_to_dict` wrote. Raises InvalidSpecification, which says what is
    wrong."""
    if not isinstance(values, Mapping) or set(values) != {"kind", "labels", "words"}:
        raise InvalidSpecification("answers must be an object with kind, labels and words")
    kind, labels, words = values["kind"], values["labels"], values["words"]
    if kind not in KINDS:
        raise InvalidSpecification(f"answers.kind is {kind!r}; there are {', '.join(KINDS)}")
    if (
        not isinstance(labels, list)
        or len(labels) > MOST_LABELS
        or not all(isinstance(label, str) and 0 < len(label) <= LABEL_CHARS for label in labels)
    ):
        raise InvalidSpecification(
            f"answers.labels must be a list of at most {MOST_LABELS} texts of 1 to {LABEL_CHARS} characters"
        )
    numbers = isinstance(words, list) and all(type(number) in (int, float) and 0 <= number < 1e9 for number in words)
    if not numbers or len(words) != len(LENGTH_QUANTILES) or sorted(words) != words:
        raise InvalidSpecification("answers.words must be three numbers of at least 0, in ascending order")
    low, middle, high = map(float, words)
    return Answers(kind, tuple(labels), (low, middle, high))
