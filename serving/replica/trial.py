"""Tries an adapter on the running engine before it is served: it must give finite probabilities that differ from the
base model's, answer the examples of its card, and not say one and the same thing whatever it is asked.

It is asked as it will be: each prompt is one user turn through the base's chat template, and answers are greedy. The
examples of its card come first. Where too little can be seen by these (they are few, or have one answer, or none is of
any use), everyday questions follow, and its own ask put to other material: plain texts that differ in whatever a label
may depend on, and texts that name each of its labels as the right one.

A provider whose learnware is refused can do nothing about a wrong refusal, so only what leaves no doubt is refused; the
rest becomes a note that is kept with the learnware (`specs.market.trial.Trial`).
"""

import hashlib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from serving.replica.off_task_meter import Asked, Said
from specs.answers.degenerate import Fault, fault_of
from specs.encoding.ask import split_prompt

EXAMPLES = 8
"""The most examples of a card that are tried."""
ANSWER_TOKENS = 48
"""Largest length of an answer to an example in tokens: a sentence, and enough to see most circles begin."""
EVERYDAY_TOKENS = 24
"""Largest length of an answer to an everyday question in tokens."""
EVERYDAY = (
    "What is the capital of France?",
    "Write a poem about autumn leaves.",
    "hello, how are you today?",
    "Explain in one sentence why the sky is blue.",
    "Name three things that one can cook with potatoes.",
    "Write a Python function that adds two numbers.",
)
"""Questions whose answers have nothing in common."""
MATERIAL = (
    "The library opens at nine on weekdays and at ten on Saturdays.",
    "They lost the match, two players were injured, and the coach was dismissed in anger.",
    "The new bridge was finished a year early, and everyone in the town is delighted with it.",
    "Jane had 12 apples, gave away 5 and shared the rest among her 3 brothers.",
    "Two cups of flour, one egg, a pinch of salt: stir, and fry the pancakes in butter.",
    "Click here NOW to win a free phone!!! Send your password to claim it.",
)
"""Texts that differ in mood, subject, length, numbers and purpose, for its own ask."""
NAMED = "The right answer to this one is: {label}"
"""Material that names a label; a learnware that looks at its material at all follows some of them."""
NAMED_LABELS = 6
"""The most labels that are named."""
DIVERSE = 6
"""Answers from which on they say something about all: the least that a refusal, or a note that all are equal, needs."""
SURE = 0.9
"""Least probability of an answer's first token, for every prompt, with which answers that are all the same are refused.
A learnware that looks at what it is asked is less sure somewhere, even where the same answer stays the likeliest."""

PROBES = 6
"""Number of prompts at which its probabilities are compared with the base model's."""
MIN_DIFFERENCE = 0.02
"""Least difference (nats) by which the log-probability of one of the first token's candidates must move, at least once.
One request in two batches of different size differs by about this much in bfloat16; trained adapters move them by 0.1
to 10. An adapter whose weights change nothing at all is refused before (`specs.adapter`), whatever the noise."""
LIMIT_S, MORE_LIMIT_S = 30.0, 15.0
"""Seconds after which the trial's first answers, and those about other material, are waited for no longer. An idle CPU
engine with a 135M base needs a few; beside many clients few are asked at a time."""


class Asker(Protocol):
    """Asks the engine, as `serving.replica.off_task_meter.OffTaskMeter` does."""

    async def answers(self, asked: Sequence[Asked], limit_s: float) -> dict[Asked, Said]:
        """Returns the greedy answers that were made in time. Raises InvalidLearnware when they are no numbers."""
        ...


class Tried(NamedTuple):
    """The finding of a trial: why the learnware must not be served, or None, and notes that are kept with it."""

    refusal: str | None
    notes: tuple[str, ...] = ()


async def probe(asker: Asker, request: Any, examples: Sequence[str], labels: Sequence[str] = ()) -> Tried:
    """Tries the adapter of `request` (vLLM's `LoRARequest`).

    Args:
        asker: asks the engine.
        request: names the adapter.
        examples: requests of its card, of which `EXAMPLES` at most are asked.
        labels: the labels with which it answers its own task, as far as they are known.

    Raises:
        InvalidLearnware: its answers are not finite numbers.
        TimeoutError: the engine had so much else to do that nothing can be said.
    """
    own = sorted({text for text in examples if text.strip()}, key=_drawn)[:EXAMPLES]
    everyday = [prompt for prompt in EVERYDAY if prompt not in own]
    first = [Asked(prompt, request, ANSWER_TOKENS) for prompt in own or everyday]
    beside = [Asked(one.prompt, None, 1) for one in first[:PROBES]]
    answers = await asker.answers([*first[:PROBES], *beside, *first[PROBES:]], LIMIT_S)
    said = {one.prompt: answer for one, answer in answers.items() if one.request is not None}
    base = {one.prompt: answer for one, answer in answers.items() if one.request is None}
    if not said.keys() & base.keys():
        raise TimeoutError(f"the engine answered none of the trial's prompts within {LIMIT_S:g} s")
    if (largest := _largest_difference(said, base)) < MIN_DIFFERENCE:
        return Tried(
            f"on the engine it answers as the base model does: no probability moves by more than {largest:.4f} "
            f"(log), where {MIN_DIFFERENCE} is the least"
        )
    if not own:
        return judge({}, {}, said, 0, labels)
    more: dict[str, Said] = {}
    if _all_equal(said.values(), labels) or all(_fault(answer) for answer in said.values()):
        others = [Asked(prompt, request, ANSWER_TOKENS) for prompt in other_material(own, labels)]
        others += [Asked(prompt, request, EVERYDAY_TOKENS) for prompt in everyday]
        more = {one.prompt: answer for one, answer in (await asker.answers(others, MORE_LIMIT_S)).items()}
    elsewhere = {prompt: more.pop(prompt) for prompt in everyday if prompt in more}
    return judge(said, more, elsewhere, len(own), labels)


def judge(
    examples: Mapping[str, Said],
    more: Mapping[str, Said],
    everyday: Mapping[str, Said],
    asked: int,
    labels: Collection[str] = (),
) -> Tried:
    """Judges the answers to the `asked` examples of a card, those to its own ask about other material (`more`), and
    those to everyday questions, each by its prompt; missing ones were not answered in time."""
    own = {**examples, **more}
    every = [*own.values(), *everyday.values()]
    faults = [_fault(said) for said in examples.values()]
    silent = faults.count(Fault.NOTHING)
    if examples and silent == len(examples):
        return Tried(f"on the engine it gives no answer to {_of(len(examples), asked)} of its card")
    judged = list(own.values()) if len(own) >= DIVERSE else every
    if len(judged) >= DIVERSE and all(_fault(said) for said in judged):
        return Tried(
            f"on the engine it repeats itself without end, or says nothing, in each of {len(judged)} answers, such as "
            f"{_quoted(judged[0].text)}"
        )
    constant = _all_equal(own.values(), labels) and len(own) > 1
    if constant and len(every) > DIVERSE and _all_equal(every, ()) and all(map(_is_sure, every)):
        return Tried(
            f"on the engine it answers {_quoted(every[0].text)} whatever it is asked: {len(own)} requests of its own "
            f"task and {len(everyday)} everyday questions"
        )
    notes = []
    if not asked:
        notes.append("its card has no examples, so it was tried on everyday questions only")
    elif len(examples) < asked:
        notes.append(f"{asked - len(examples)} of {asked} examples of its card were not tried: the engine was busy")
    if silent:
        notes.append(f"it gives no answer to {silent} of {len(examples)} examples of its card")
    if circles := faults.count(Fault.CIRCLE):
        notes.append(f"it repeats itself without end on {circles} of {len(examples)} examples of its card")
    if constant and len(own) >= DIVERSE:
        notes.append(
            f"it answers {_quoted(next(iter(own.values())).text)} to each of {len(own)} different requests of its own "
            "task"
        )
    elif not own and len(every) >= DIVERSE and _all_equal(every, labels):
        notes.append(f"it answers {_quoted(every[0].text)} to each of {len(every)} different questions")
    if labels and examples and not any(_labels_in(said.text, labels) for said in examples.values()):
        notes.append(f"it answers none of {len(examples)} examples of its card with one of its labels")
    return Tried(None, tuple(notes))


def other_material(examples: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Returns prompts in which the asks of the examples are put to other material. There are none where no example
    brings material along."""
    prompts = [split_prompt(example) for example in examples]
    asks = list(dict.fromkeys(" ".join(prompt.ask) for prompt in prompts if prompt.ask and not prompt.is_all_ask))
    if not asks:
        return []
    material = [*MATERIAL, *(NAMED.format(label=label) for label in labels[:NAMED_LABELS])]
    return [f"{asks[number % len(asks)]}\n{text}" for number, text in enumerate(material)]


def difference(own: Mapping[int, float], base: Mapping[int, float]) -> float:
    """Returns the largest difference of log-probability over the tokens that both list, infinity when they share
    none."""
    shared = own.keys() & base.keys()
    return max((abs(own[token] - base[token]) for token in shared), default=math.inf)


def _largest_difference(said: Mapping[str, Said], base: Mapping[str, Said]) -> float:
    """Returns the largest difference at the first token of an answer, over the prompts that both have answered."""
    return max(difference(said[prompt].likeliest[0], base[prompt].likeliest[0]) for prompt in said.keys() & base.keys())


def _drawn(text: str) -> bytes:
    """Returns the key by which examples are drawn: at random, and the same ones every time."""
    return hashlib.sha256(text.encode()).digest()


def _fault(said: Said) -> Fault | None:
    """Returns the fault of an answer whatever was asked; a bare label or number is none."""
    fault = fault_of(said.text)
    return None if fault is Fault.BARE else fault


def _all_equal(answers: Collection[Said], labels: Collection[str]) -> bool:
    """Whether all answers are the same: the same text, or one label in whatever words."""
    return len({_gist(said.text, labels) for said in answers}) == 1


def _gist(text: str, labels: Collection[str]) -> str:
    """Returns the one label that an answer holds, or where it holds none or several, its words."""
    held = _labels_in(text, labels)
    return held.pop() if len(held) == 1 else _plain(text)


def _labels_in(text: str, labels: Collection[str]) -> set[str]:
    """Returns the labels that stand in an answer as whole words, or anywhere in scripts without spaces."""
    plain = _plain(text)
    return {label for label in map(_plain, labels) if label and re.search(_pattern(label), plain)}


def _pattern(label: str) -> str:
    return rf"(?<!\w){re.escape(label)}(?!\w)" if label.isascii() else re.escape(label)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .!\"'*")


def _is_sure(said: Said) -> bool:
    """Whether an answer's first token was about as good as certain."""
    return math.exp(said.likeliest[0][said.tokens[0]]) >= SURE


def _of(count: int, asked: int) -> str:
    return "the one example" if count == asked == 1 else f"any of {count} examples"


def _quoted(text: str, most: int = 60) -> str:
    """Quotes the beginning of an answer on one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= most else line[:most] + "…")
