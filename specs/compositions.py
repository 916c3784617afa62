"""Requests that a learnware's rows and card imply: its ask in other words, and other asks, on its own material.

A provider's rows share one wording. The card's examples hold others, each with one material; put to the rows' material
they show that any of these asks may meet any of it (*asked*). And whoever has such material may ask for something else
altogether: for a translation, an explanation, a summary. What the learnware was made for says nothing about these, so
they are composed here, where the rows lie, from the project's own asks (*declined*). Of both only points enter a
specification.
"""

import random
from collections.abc import Sequence

from specs.answers import Answers
from specs.ask import split_prompt
from specs.prompts import other_asks
from specs.views import bare_prompt

ASKED = 120
DECLINED = 160
"""Requests composed; reduced to points like other rows."""
BEFORE = 0.55
"""Share of asks that stand before their material."""
NEAR_SHARE = 0.25
"""Share of declined requests that speak of the learnware's own ask."""

NEAR_ASKS = (
    "Explain how you would decide this: {ask}",
    "Why? {ask} Give the reasons in full sentences.",
    "{ask} Explain your answer step by step.",
    "What do the possible answers mean here? {ask}",
    "Write another example like this one.",
    "Make up a similar text where the answer would be different.",
    "Which words in the text decide this? {ask}",
    "What makes it hard to tell? {ask}",
    "Why is this the case? Discuss the opposite view.",
    "How sure can one be, and what would you need to know? {ask}",
    "Rewrite the text so that the answer changes.",
    "Give advice to the person concerned.",
    "What happens next? Continue the text.",
    "Who wrote this, and for whom?",
    "What is this about? Explain it to a beginner.",
    "Explain the background that one needs to understand this.",
    "Write a critique of the question itself: {ask}",
    "Translate the text and the question into Spanish: {ask}",
    "Is the question well put? Rewrite it: {ask}",
    "List the facts that matter for the decision, without deciding.",
)
"""Asks near to a learnware's own which no label answers."""


def asked_and_declined(
    prompts: Sequence[str], examples: Sequence[str], answers: Answers | None
) -> tuple[list[str], list[str]]:
    """The composed requests, both lists empty where there is nothing to compose: prompts of one line have no ask
    apart from their material, and a learnware that answers in sentences may well explain or translate what it is for.

    The same input gives the same output.
    """
    materials = [bare_prompt(prompt) for prompt in prompts if "\n" in prompt]
    if not materials or answers is None or answers.in_sentences:
        return [], []
    generator = random.Random(f"{len(prompts)} {prompts[0]}")  # noqa: S311 - nothing secret
    own = [" ".join(split_prompt(example).ask) for example in examples]
    asked = [
        _put(own[number % len(own)], generator.choice(materials), generator) for number in range(ASKED if own else 0)
    ]
    declined = []
    for _ in range(DECLINED):
        material = generator.choice(materials)
        if own and generator.random() < NEAR_SHARE:
            ask = generator.choice(NEAR_ASKS).replace("{ask}", generator.choice(own))
            declined.append(_put(ask, material, generator))
        elif generator.random() < BEFORE:
            declined.append(f"{generator.choice(other_asks('before'))}\n{material}")
        else:
            declined.append(f"{material}\n{generator.choice(other_asks('after'))}")
    return asked, declined


def _put(ask: str, material: str, generator: random.Random) -> str:
    return f"{ask}\n{material}" if generator.random() < BEFORE else f"{material}\n{ask}"
