"""Explains a choice: the figures that the rule compared, and the reason in a sentence.

Every reason that a router gives has its sentence here; a test checks that none is missing.
"""

from collections.abc import Sequence
from typing import Any

from router.choice import (
    BASE_BETTER,
    EXPLANATION,
    INTERFACE_TASK,
    LOW_CONFIDENCE,
    MATCHED,
    MIXED_PROMPTS,
    NAMED,
    NO_LEARNWARE,
    NO_TEXT,
    RESIDENT,
    ROUTER_DEADLINE,
    ROUTER_ERROR,
    ROUTER_OVERLOAD,
    SESSION,
    TASK,
    UNKNOWN_TASK,
)
from router.selection import Choice

DIGITS = 6
"""Decimals of the figures that are shown."""

_BEST = "{name} is the likeliest to answer better than the base model, with a probability of {match}"
_SENTENCES = {
    MATCHED: "What is asked is what {name} answers better than the base model with a probability of {match} (at least "
    "{bound}), and {expected} is expected of it; of the base model {base}.",
    TASK: "The task is what {name} answers better than the base model with a probability of {match} (at least "
    "{bound}), and {expected} is expected of it; of the base model {base}.",
    SESSION: "An earlier turn asked for what {name} answers, and the conversation has not turned to anything else.",
    NAMED: "The request names its model, so nothing was chosen.",
    LOW_CONFIDENCE: f"{_BEST}, where {{bound}} would be needed; so the base model answers.",
    BASE_BETTER: "Of the base model {base} is expected, of the best learnware, {name}, {expected}; so the base model "
    "answers.",
    EXPLANATION: "The turn asks for words about an answer, and the conversation's learnware only labels; so the base "
    "model answers.",
    INTERFACE_TASK: "A chat front end asks for something for itself, such as a title; so the base model answers.",
    NO_TEXT: "There is no text of the user to choose by; so the base model answers.",
    MIXED_PROMPTS: "The prompts of this one request ask for different learnwares; so the base model answers them all.",
    NO_LEARNWARE: "The router has no learnware with a specification to choose from; so the base model answers.",
    UNKNOWN_TASK: "There is no task with this id.",
    ROUTER_DEADLINE: "The decision took longer than router.deadline_ms; so the base model answers.",
    ROUTER_ERROR: "The router failed on this request; so the base model answers.",
    ROUTER_OVERLOAD: "The router has more requests than it can decide on in time; so the base model answers.",
}
_STAND_IN = " {name} stands in for the best one: it is nearly as good, and its adapter is nearer to the device."


def figures(choice: Choice) -> dict[str, Any]:
    """Returns the figures that the rule compared, for JSON: the likeliest tasks (parts of the base model's home as
    `base:…`), the base model's expected quality, the best candidate's `match`, and `min_match`, the bound that it was
    held against (None where no learnware was looked for)."""
    return {
        "tasks": [{"task": name, "probability": round(p, DIGITS)} for name, p in choice.probabilities],
        "base": {"expected": round(choice.base, DIGITS)},
        "match": round(choice.score, DIGITS),
        "min_match": choice.bound if choice.candidates else None,
    }


def in_words(choice: Choice) -> str:
    """Returns the reason as a sentence, with the figures that decided."""
    reason = choice.reason.removesuffix(RESIDENT)
    by_id = {one.learnware_id: one for one in choice.candidates}
    best = choice.candidates[0] if choice.candidates else None
    shown = by_id.get(choice.learnware_id or "", best)
    name = choice.learnware_id or (shown.learnware_id if shown else "no learnware")
    sentence = _SENTENCES[reason] + (_STAND_IN if reason != choice.reason else "")
    return sentence.format(
        name=name,
        match=f"{choice.score:.2f}",
        bound=f"{choice.bound:g}",
        expected=f"{shown.expected if shown else 0.0:.3f}",
        base=f"{choice.base:.3f}",
    )


def describe(choice: Choice, ask: Sequence[str]) -> dict[str, Any]:
    """Returns explanation, ask and figures, as `POST /v1/route` shows them beside the candidates. `ask` holds the
    sentences that were taken for the ask."""
    return {"explanation": in_words(choice), "ask": list(ask), **figures(choice)}
