"""The form of answer that a request asks for: a letter, a number, or one of some labels.

Most people who want a label or a letter say so ("Answer with one of: up, down."), or list options with letters. If a
request asks for a form that a learnware cannot give, no statistics are needed: whoever wants the final number of a word
problem has no use for its operation, however near the two requests are.
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

from specs.answers.description import AnswerKind, Answers
from specs.answers.options import offers_letters
from specs.encoding.ask import instructs, split_prompt

LEAST_SHARED = 3
"""Letters from which a label may be shortened ("pos" for positive)."""
MOST_LISTED = 32
"""The most labels of an ask that are read."""
_LETTER = re.compile(
    r"\b(?:answer|reply|respond|give|state|output|return|write|send|pick|choose|with|only|just)\b[^.\n]{0,40}"
    r"\b(?:the|a|one|single|correct|right|option|its)\s+(?:\w+\s+)?letter\b(?!\s+(?:to|of|for|from)\b)"
    r"|\bletter (?:only|alone)\b|选项字母|选项的字母",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\b(?:answer|reply|respond|end|finish|conclude|output|return|give|state|with|only|just|as)\b[^.\n]{0,30}"
    r"\b(?:the|a|one|single)\s+(?:final\s+|single\s+|resulting\s+|plain\s+)?number\b(?!\s+of\b)"
    r"|\bnumber (?:only|alone)\b",
    re.IGNORECASE,
)
_VERDICT = re.compile(r"\b(?:yes or no|yes/no|yes, no(?:,| or)|true or false|true/false)\b", re.IGNORECASE)
_LISTED = re.compile(
    r"\bone of(?: (?:these|the following|the))?(?: (?:labels?|categor(?:y|ies)|class(?:es)?|words|options|answers))?"
    r"\s*[:：]\s*(?P<labels>[^.\n]{3,})",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\s*(?:[,;|/]|\bor\b)\s*", re.IGNORECASE)


class AnswerForm(NamedTuple):
    """The form that is asked for. `kind` is letter, number or label, with the listed `labels` in lower case, or text
    where a letter would name nothing. `by_options` says that options with letters are all that asks for it: there is no
    instruction beside them."""

    kind: AnswerKind
    labels: frozenset[str] = frozenset()
    by_options: bool = False


def asked_form(text: str) -> AnswerForm:
    """Returns the form of answer that a prompt asks for, in words or by the options that it offers.

    Whoever lists options with letters wants one of them named, and a learnware that answers in sentences, with a number
    or with labels of its own does not look at them. Where there are none, a letter is no answer.
    """
    ask = split_prompt(text).ask
    named = answer_form(ask)
    if named is not None:
        return named
    return AnswerForm("letter", by_options=not instructs(ask)) if offers_letters(text) else AnswerForm("text")


def answer_form(ask: Sequence[str]) -> AnswerForm | None:
    """Returns the form that the sentences of an ask name, or None where they name none."""
    for sentence in ask:
        listed = _LISTED.search(sentence)
        if listed:
            labels = [label.strip(" \"'()[]").lower() for label in _BETWEEN.split(listed["labels"])[:MOST_LISTED]]
            return AnswerForm("label", frozenset(filter(None, labels)))
        if _VERDICT.search(sentence):
            return AnswerForm("label", frozenset({"yes", "no", "true", "false"}))
        if _LETTER.search(sentence):
            return AnswerForm("letter")
        if _NUMBER.search(sentence):
            return AnswerForm("number")
    return None


def can_give(answers: Answers | None, form: AnswerForm) -> bool:
    """Whether a learnware with these answers may answer in this form; a learnware with unknown answers may always.

    Sentences may end with a number, and a span may be anything. Labels may be letters, where the options have none.
    """
    if answers is None or answers.kind == "span":
        return True
    if form.kind == "text":
        return answers.kind != "letter"
    if form.kind == "letter" and answers.kind == "label":
        return bool(answers.labels) and all(len(label) == 1 for label in answers.labels)
    if form.kind != "label":
        return answers.kind == form.kind or (form.kind == "number" and answers.kind == "text")
    return answers.kind == "label" and _share_a_label([label.lower() for label in answers.labels], form.labels)


def _share_a_label(own: Collection[str], listed: frozenset[str]) -> bool:
    """Whether a label is in both, in one of them perhaps shortened: then the two begin alike, which is looked at first
    because a market may have thousands of labels."""
    if not listed.isdisjoint(own):
        return True
    heads = _heads(listed)
    alike = (one for one in own if len(one) >= LEAST_SHARED and one[:LEAST_SHARED] in heads)
    return any(
        len(other) >= LEAST_SHARED and (one.startswith(other) or other.startswith(one))
        for one in alike
        for other in listed
    )


@lru_cache(maxsize=16)
def _heads(labels: frozenset[str]) -> frozenset[str]:
    return frozenset(label[:LEAST_SHARED] for label in labels)
