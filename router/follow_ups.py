"""Tells follow-ups, turns that only make sense after what was said before, from turns with a topic of their own ("write
a poem about autumn"), and what a follow-up wants: words about the answer ("why?", "explain that in one sentence"), or
more of the same task ("and this one: …", "and in 2019?").

Neither fits a learnware when it is looked at alone. The nearest of the project's own phrases (`follow_ups.txt`) and of
its everyday prompts and domains' questions, which have topics, vote: each with a weight that falls exponentially with
its distance.
"""

import importlib.resources
import re
from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np

from specs.encoding.encoder import Encoder
from specs.prompts import domain_questions, everyday_prompts
from specs.routed_rows import FOLLOW_UP_CHARS

_VOTERS = 50
"""Number of the nearest phrases that vote."""
_SHARPNESS = 20.0
"""How fast a phrase's vote falls with its distance: one that is nearer by a cosine of 0.05 counts e times as much."""
_CLEAR_VOTES = 2.0
"""Factor by which one kind must outvote the other. Without it 8 in 100 unseen turns that ask for words count as
continuations, with it 3; one continuation in three is then `EITHER`."""
_CLEAR_TOPIC = 1.25
"""Factor by which topics must outvote both kinds: there are four times as many of them, so that some are near to
anything. With 1 twice as many of the benchmark's requests for an explanation stay with a learnware that labels; it was
chosen on these."""
_CLEAR_COSINE = 0.7
"""The least cosine of the end of a long turn to some phrase: with no bound every text's first words are nearest to
one."""
_CLAUSE = re.compile(r"[:.?!\n。？！：]")
_FINAL = ".!。！ "


class FollowUp(Enum):
    """The kinds of follow-ups, by what they want. The first two values are the sections of `follow_ups.txt`."""

    EXPLANATION = "explanations"
    CONTINUATION = "continuations"
    EITHER = "either"


TellFollowUp = Callable[[str], FollowUp | None]
"""Tells the kind of a turn's text; None when it has a topic of its own."""


class FollowUps:
    """Holds the phrases' vectors: some 4,000, compared in about 0.6 ms. Safe to use from several threads."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        phrases = follow_up_phrases()
        topics = [*everyday_prompts(), *sum(domain_questions().values(), ())]
        groups = [phrases[FollowUp.EXPLANATION], phrases[FollowUp.CONTINUATION], topics]
        self._vectors = np.vstack([encoder.encode([_plain(phrase) for phrase in group]) for group in groups])
        self._kinds = np.repeat(np.arange(3), [len(group) for group in groups])

    def kind(self, turn: str) -> FollowUp | None:
        """Returns the kind of follow-up, or None when the turn has a topic of its own. Never raises on odd text."""
        turn = turn.strip()
        if not turn:
            return None
        looked_at = set()
        if len(turn) <= FOLLOW_UP_CHARS:
            looked_at.add(whole := _plain(turn))
            if kind := self._vote(whole, 0.0):
                return kind  # otherwise a short next item may hide its beginning: "and this one: sales were flat"
        end = _CLAUSE.search(turn, 0, FOLLOW_UP_CHARS)
        head = turn[: end.end()] if end else ""
        for part in map(_plain, filter(None, (head, _last_sentence(turn)))):
            # a turn of one sentence is its own beginning and end: no other bound makes a kind of it
            if part not in looked_at and (kind := self._vote(part, _CLEAR_COSINE)):
                return kind
            looked_at.add(part)
        return None

    def _vote(self, text: str, least: float) -> FollowUp | None:
        """Returns what the phrases near a text say, typed as they are (`_plain`); None where none is as near as
        `least`, a cosine. The vector is not the one that chose a learnware, which the prompt encoder made of material
        and ask."""
        cosines = self._vectors @ self._encoder.encode([text])[0]
        voters = np.argpartition(-cosines, _VOTERS)[:_VOTERS]
        if cosines[voters].max() < least:
            return None
        weights = np.exp(_SHARPNESS * (cosines[voters] - 1))
        explanation, continuation, topic = np.bincount(self._kinds[voters], weights, 3)
        if topic > _CLEAR_TOPIC * max(explanation, continuation):
            return None
        if explanation >= _CLEAR_VOTES * continuation:
            return FollowUp.EXPLANATION
        return FollowUp.CONTINUATION if continuation >= _CLEAR_VOTES * explanation else FollowUp.EITHER


def follow_up_phrases() -> Mapping[FollowUp, list[str]]:
    """Returns the project's own phrases, in several languages."""
    text = importlib.resources.files("router").joinpath("follow_ups.txt").read_text(encoding="utf-8")
    phrases: dict[FollowUp, list[str]] = {FollowUp.EXPLANATION: [], FollowUp.CONTINUATION: []}
    section = phrases[FollowUp.EXPLANATION]
    for line in text.splitlines():
        if line.startswith("["):
            section = phrases[FollowUp(line.strip("[]"))]
        elif line and not line.startswith("# "):
            section.append(line)
    return phrases


def _plain(phrase: str) -> str:
    """Returns a phrase as people type it: case and a full stop say nothing; a question mark and a colon do."""
    return phrase.lower().rstrip(_FINAL)


def _last_sentence(turn: str) -> str:
    tail = turn[-FOLLOW_UP_CHARS:].rstrip(".?!:\n。？！： ")
    *_, last = _CLAUSE.split(tail)
    return turn[len(turn) - FOLLOW_UP_CHARS + len(tail) - len(last) :].strip()
