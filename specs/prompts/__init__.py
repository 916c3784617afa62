"""The project's own prompts of requests that the base model should answer, the other side of each learnware's choice.

    everyday.txt     chat, writing, code, general knowledge and asks about general material; no domain claims them
    <domain>.txt     free questions about a domain that want sentences, and asks about the domain's material; no shipped
                     learnware answers them
    other_asks.txt   asks that fit any pasted text and want something else than its label, by where they stand
    near_asks.txt    asks near to a learnware's own that no label answers

Beside them stand the other texts that the choice is made from:

    own_asks.txt     asks for one kind of answer about any pasted text, by that kind: a learnware's own in other words
    system_prompts.txt
                     system prompts that say what is to be done with every message, and others

All are written for this project. A file holds one prompt a line in UTF-8: `\\n` stands for a line break, and a line
that begins with "# " is a comment. In a file no prompt comes twice, case and white space aside.
"""

import importlib.resources
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, Literal

AskKind = Literal["label", "letter", "yes or no", "number", "span", "text"]
"""Kinds of answers for which own_asks.txt has asks."""

DOMAINS = ("finance", "healthcare", "mathematics")
"""Domains of the shipped learnwares; each has a file of its own."""

REHEARSED: Final = 0
"""The half (`half`) of these prompts that training rehearses, to keep the base model's behaviour off the task."""
MEASURED: Final = 1
"""The half (`half`) of these prompts that no learnware has seen, on which its effect off its task is measured."""

_PLACE = "# place: "
"""Opens the asks that stand in one place: before, after or either."""
_KIND = "# kind: "
"""Opens the asks for one kind of answer."""
LABELS: Final = "{labels}"
"""Placeholder in an ask for the labels to choose from."""
ASK: Final = "{ask}"
"""Placeholder in a near ask for the learnware's own ask."""


@cache
def everyday_prompts() -> tuple[str, ...]:
    """Returns the everyday prompts, which belong to no domain of the shipped learnwares."""
    return _prompts(_lines("everyday.txt"))


@cache
def domain_questions() -> dict[str, tuple[str, ...]]:
    """Returns, by domain, prompts about it that no shipped learnware answers. The dictionary is shared: copy it to
    change it."""
    return {domain: _prompts(_lines(f"{domain}.txt")) for domain in DOMAINS}


@cache
def other_asks(place: Literal["before", "after"] | None = None) -> tuple[str, ...]:
    """Returns asks that fit any text and want no label of it: those that may stand before or after the text, or all of
    them."""
    places = ("before", "after", "either") if place is None else (place, "either")
    return _section("other_asks.txt", _PLACE, places)


@cache
def near_asks() -> tuple[str, ...]:
    """Returns asks about material that somebody labels or decides on, which want something else than the label; some
    hold `ASK`."""
    return _prompts(_lines("near_asks.txt"))


@cache
def system_prompts(kind: Literal["instruction", "neutral"]) -> tuple[str, ...]:
    """Returns system prompts that say what is to be done with every message, or that do not."""
    return _section("system_prompts.txt", _KIND, (kind,))


@cache
def own_asks(kind: AskKind) -> tuple[str, ...]:
    """Returns asks for an answer of this kind about any text; some hold `LABELS`."""
    return _section("own_asks.txt", _KIND, (kind,))


def half(prompts: Sequence[str], which: Literal[0, 1]) -> tuple[str, ...]:
    """Returns one of two disjoint halves, in the given order, for cross-fitting: one is fitted on, the other judged on.

    A prompt's own checksum decides, so it stays in its half when others come, go or change places. The halves are only
    nearly equal in size.
    """
    return tuple(prompt for prompt in prompts if zlib.crc32(prompt.encode()) % 2 == which)


def _section(name: str, opening: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the prompts of a file under the headings `opening` + one of `wanted`."""
    kept, here = [], False
    for line in _lines(name):
        if line.startswith(opening):
            here = line.removeprefix(opening) in wanted
        elif here:
            kept.append(line)
    return _prompts(kept)


def _lines(name: str) -> list[str]:
    return importlib.resources.files("specs.prompts").joinpath(name).read_text(encoding="utf-8").splitlines()


def _prompts(lines: Iterable[str]) -> tuple[str, ...]:
    return tuple(line.replace("\\n", "\n") for line in lines if line and not line.startswith("# "))
