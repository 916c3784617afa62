"""Requests that a learnware's rows and card imply: its ask in other words, and other asks, on its own material.

A provider's rows share one wording. The card's examples hold others, each with one material, and whatever the topic,
people ask for a label, a letter or a number in ways of their own ("which one fits?"). Composed with the rows' material
they become *asked* requests, which show that any of these wordings may meet any of the material. And whoever has such
material may ask for something else altogether: a translation, an explanation, a summary. The rows say nothing about
these, so *declined* requests are composed here, where the rows lie, from the project's own asks. Only points of either
enter a specification.
"""

import random
from collections import Counter
from collections.abc import Sequence

from specs.answers.description import Answers
from specs.encoding.ask import split_prompt
from specs.prompts import ASK, LABELS, AskKind, near_asks, other_asks, own_asks

ASKED = 120
"""Number of asked requests that are composed for one learnware; they are reduced to points like other rows."""
DECLINED = 280
"""Number of declined requests that are composed for one learnware; they are reduced to points like other rows."""
GENERIC_SHARE = 0.4
"""Share of asked requests that use the project's own wording for that kind of answer (`specs.prompts.own_asks`)."""
MOST_LABELS_SAID = 8
"""The most labels that a composed ask lists: nobody writes more into an instruction of their own."""
UNASKED = 80
"""Number of asked requests that hold a row's content alone, for learnwares that answer letters: people paste a question
with its lettered options and say no more. Without these, most such requests went to the base model."""
DECLINED_UNASKED = 140
"""Number of declined requests about the same content, so that another ask beside it still counts."""
ON_ONE_LINE = 4
"""One in so many requests without an ask has its lines joined: options are often pasted so."""
WRAPPER_LINES = 3
"""The most lines at either end of a row that its provider may have put there."""
SHARED_BY = 0.5
"""Share of prompts from which a line at their ends is the provider's own."""
VERDICTS = frozenset({"yes", "no", "maybe", "true", "false", "unknown", "not sure"})
"""Labels of a verdict, which people ask for in other words than for a class."""
BEFORE = 0.55
"""Share of asks that stand before their material."""
NEAR_SHARE = 0.45
"""Share of declined requests that speak of the learnware's own ask (`specs.prompts.near_asks`)."""
ANSWER_CUE_CHARS = 20
"""The most characters of an answer cue. A last line this short that ends in a colon ("Answer:", "Answer to Q2:" or
"答案：") asks for the answer and says nothing else."""


def asked_and_declined(
    prompts: Sequence[str], examples: Sequence[str], answers: Answers | None
) -> tuple[list[str], list[str]]:
    """Composes asked and declined requests for a learnware; the same input gives the same output.

    A learnware that answers in sentences may well explain or translate its material, so it has no declined requests,
    and asks for sentences are put to whole prompts. For other learnwares both lists are empty if every prompt is one
    line, which has no ask apart from its material. Both are empty, too, if `answers` is None.
    """
    if answers is None or not prompts:
        return [], []
    generator = random.Random(f"{len(prompts)} {prompts[0]}")  # noqa: S311 - nothing secret
    generic = generic_asks(answers)
    generator.shuffle(generic)
    if answers.in_sentences:
        return [_put(ask, generator.choice(prompts), generator) for ask in generic], []
    materials = [bare_prompt(prompt) for prompt in prompts if "\n" in prompt]
    if not materials:
        return [], []
    own = [" ".join(split_prompt(example).ask) for example in examples]
    generic = generic[: round(ASKED * GENERIC_SHARE)]
    worded = [*generic, *(own[number % len(own)] for number in range(ASKED - len(generic) if own else 0))]
    asked = [_put(ask, generator.choice(materials), generator) for ask in worded]
    contents = own_content(prompts) if answers.kind == "letter" else []
    if contents:
        asked += _unasked(contents, generator)
    declined = []
    for number in range(DECLINED + (DECLINED_UNASKED if contents else 0)):
        material = generator.choice(materials if number < DECLINED else contents)
        if own and generator.random() < NEAR_SHARE:
            ask = generator.choice(near_asks()).replace(ASK, generator.choice(own))
            declined.append(_put(ask, material, generator))
        elif generator.random() < BEFORE:
            declined.append(f"{generator.choice(other_asks('before'))}\n{material}")
        else:
            declined.append(f"{material}\n{generator.choice(other_asks('after'))}")
    return asked, declined


def generic_asks(answers: Answers) -> list[str]:
    """Returns the project's own asks for answers of this kind that name no topic, with the labels written in where
    there are few enough."""
    asks = own_asks(_ask_kind(answers))
    if not 2 <= len(answers.labels) <= MOST_LABELS_SAID:
        asks = tuple(ask for ask in asks if LABELS not in ask)
    return [ask.replace(LABELS, _said(answers.labels)) for ask in asks]


def _unasked(contents: Sequence[str], generator: random.Random) -> list[str]:
    """Returns `UNASKED` of the contents, some of them on one line."""
    chosen = [generator.choice(contents) for _ in range(UNASKED)]
    return [
        " ".join(content.split("\n")) if number % ON_ONE_LINE == 0 else content for number, content in enumerate(chosen)
    ]


def _ask_kind(answers: Answers) -> AskKind:
    is_verdict = answers.kind == "label" and {label.lower() for label in answers.labels} <= VERDICTS
    return "yes or no" if is_verdict else answers.kind


def _said(labels: Sequence[str]) -> str:
    *first, last = labels or ("",)
    return f"{', '.join(first)} or {last}" if first else last


def _put(ask: str, material: str, generator: random.Random) -> str:
    return f"{ask}\n{material}" if generator.random() < BEFORE else f"{material}\n{ask}"


def bare_prompt(prompt: str) -> str:
    """Returns the prompt without its first line (the instruction) and without an answer cue at its end. A prompt of one
    line only loses the cue."""
    lines = prompt.split("\n")
    if len(lines) > 1:
        lines = lines[1:]
    while len(lines) > 1 and _is_cue(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _is_cue(line: str) -> bool:
    text = line.strip()
    return len(text) <= ANSWER_CUE_CHARS and text.endswith((":", "："))


def own_content(prompts: Sequence[str]) -> list[str]:
    """Returns each prompt without the lines at its ends that more than `SHARED_BY` of the prompts have there: what the
    provider put around every row, such as an instruction, the form of the answer or an answer cue."""
    lines = [prompt.split("\n") for prompt in prompts]
    ends = Counter(line for each in lines for line in {*each[:WRAPPER_LINES], *each[-WRAPPER_LINES:]})
    shared = {line for line, count in ends.items() if count > len(prompts) * SHARED_BY}
    contents = []
    for each in lines:
        first, last = 0, len(each)
        while first < last - 1 and each[first] in shared:
            first += 1
        while last > first + 1 and each[last - 1] in shared:
            last -= 1
        contents.append("\n".join(each[first:last]))
    return contents
