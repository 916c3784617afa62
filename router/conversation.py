"""Chooses for a conversation: it stays with its learnware until its topic or its ask changes.

The router keeps no session: every chat request carries its whole conversation. The choice that holds after its last
turn is a fold over the user's turns, oldest first, so the same conversation gives the same answer in every router
replica, before and after a restart. Each turn is chosen for alone, and then:

- a turn that matches a learnware moves the conversation there when it scores it better than the present one by
  `switch_margin`: a follow-up ("and in 2019?") is near many learnwares, and a shared wording must not make a
  conversation flap. From the base model, and from a learnware that only labels to one that answers in sentences, any
  match moves it;
- a turn that matches none leaves for the base model when its confidence is below `leave_match`, or the base model
  is expected to answer it better, and it is neither short (`leave_chars`) nor a follow-up (`router.follow_ups`);
- a follow-up keeps what holds. If it asks for words ("why?") and what holds only labels, the base model answers this
  turn, and the next item ("and this one: …") goes to the learnware again. In doubt it asks for words: a label for a
  question is worse than the base model's answer to one more item.

Most turns speak for themselves: whatever held before, the same holds after them. So the fold starts at the latest such
turn, which is found from the end: as a rule it is the last or the last but one. What a turn alone chose is remembered,
so a conversation that grows costs one choice a request, however long it is, and its fold is over all that matters.

Where a replica remembers nothing (it has just started, or the market has changed) and NEW_TURNS turns in a row say
nothing by themselves, the fold starts at the latest of the conversation's first and LONGEST longest earlier turns that
does: a topic takes words. That bounds the work of one request; it is the one case in which two replicas may differ.
Each request of the conversation then looks NEW_TURNS further back, until its fold too is over all that matters.
"""

import hashlib
import heapq
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from router.choice import BASE_BETTER, EXPLANATION, INTERFACE_TASK, MATCHED, MIXED_PROMPTS, NO_TEXT, SESSION
from router.follow_ups import FollowUp, TellFollowUp
from router.selection import Choice
from router.turn import Conversation, Turn
from specs.routed_rows import FOLLOW_UP_CHARS, says_what_to_do

NEW_TURNS = 12
"""The most turns, from the end, that one request chooses for where they are not remembered: about 100 ms with new
asks."""
LONGEST = 7
"""The most earlier turns, beside the first, that one request chooses for where that was not enough."""
FAR = 2048
"""The most turns from the end that are looked at: about 10 ms when all are remembered."""

REMEMBERED_TURNS = 8192
"""Turns whose own choice is remembered, the latest used: about 3 kB each, whatever the turns' length."""

ChooseTurn = Callable[[Turn], Choice]
"""Chooses for one turn alone."""
Instructs = Callable[[str], bool]
"""Tells whether a system prompt says what is to be done with every message."""
IsInterfaceTask = Callable[[str, str], bool]
"""Tells, from a turn's text and its system prompt, whether a chat front end asks for itself."""
AnswersInSentences = Callable[[str], bool]
"""Tells whether the learnware with this id answers in sentences."""


class ConversationSettings(BaseModel):
    """When a later turn moves a conversation to another learnware. A learnware's score on a turn is the probability
    that `selection.min_match` bounds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    switch_margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="By how much another learnware must score better on the turn than the one that answers so far. "
        "From the base model, and from a learnware that only labels to one that answers in sentences, any match moves "
        "the conversation.",
    )
    leave_chars: int = Field(
        16,
        ge=0,
        description="Characters from which a turn may have a topic of its own; a shorter one that matches no learnware "
        "does not move the conversation to the base model.",
    )
    leave_match: float = Field(
        0.2,
        ge=0,
        le=1,
        description="A turn with a topic of its own moves the conversation to the base model if its best match with a "
        "learnware is less probable than this. At 0 only where the base model is expected to answer it better.",
    )


class _Own(NamedTuple):
    """One turn's own choice and kind. `follow_up` is told only where it matters: the turn matches no learnware, or one
    that only labels."""

    choice: Choice
    follow_up: FollowUp | None
    interface_task: bool


class Conversations:
    """Chooses for conversations over one state of the market. Safe to use from several threads: two that meet a new
    turn at once choose for it twice, and alike."""

    def __init__(
        self,
        choose: ChooseTurn,
        follow_up: TellFollowUp,
        answers_in_sentences: AnswersInSentences,
        is_interface_task: IsInterfaceTask,
        settings: ConversationSettings,
    ) -> None:
        """Makes an empty memory of turns. `choose` decides one turn alone; `answers_in_sentences` is asked with the id
        of a learnware that it chose; `is_interface_task` with a turn's text and system prompt."""
        self._choose = choose
        self._follow_up = follow_up
        self._answers_in_sentences = answers_in_sentences
        self._is_interface_task = is_interface_task
        self._settings = settings
        self._lock = threading.Lock()
        self._remembered: OrderedDict[bytes, _Own] = OrderedDict()

    def choose_for_all(self, prompts: Sequence[Conversation], check: Callable[[], None] = lambda: None) -> Choice:
        """Returns the choice for the prompts of one request, which one learnware must serve: the one that all of them
        choose, with the least score of any, else the base model. `check` is called before each turn that is new, and
        ends the choice by raising."""
        choices: list[Choice] = []
        for prompt in prompts:
            choices.append(self.choose(prompt, check))
            if choices[-1].learnware_id != choices[0].learnware_id:
                return Choice(None, 0.0, 0.0, MIXED_PROMPTS, ())
        return _weakest(choices) if choices else Choice(None, 0.0, 0.0, NO_TEXT, ())

    def choose(self, conversation: Conversation, check: Callable[[], None] = lambda: None) -> Choice:
        """Returns the choice for a conversation. Its reason is `matched` when the last turn alone decides the same,
        `session` when an earlier turn holds."""
        if not conversation.turns:
            return Choice(None, 0.0, 0.0, NO_TEXT, ())
        held = answer = Choice(None, 0.0, 0.0, NO_TEXT, ())
        for turn, own in reversed(self._since_one_spoke(conversation, check)):
            held, answer = self._next(held, turn, own)
        return answer

    def deciding_turn(self, conversation: Conversation, choice: Choice) -> Turn:
        """Returns the turn that a choice of `choose` for this conversation came from: the latest one that alone chooses
        the same learnware, and where none does, the last."""
        turns = self._since_one_spoke(conversation, lambda: None)
        if choice.learnware_id is not None:
            for turn, own in turns:
                if own.choice.learnware_id == choice.learnware_id:
                    return turn
        return turns[0][0]

    def _since_one_spoke(self, conversation: Conversation, check: Callable[[], None]) -> list[tuple[Turn, _Own]]:
        """Returns the turns that decide, newest first: back to one that speaks for itself, or to the first."""
        system, texts = conversation
        found: list[tuple[Turn, _Own]] = []
        said: dict[str, _Own] = {}  # a text that is said again and again is looked up once
        number, new = len(texts) - 1, 0
        while number > 0 and len(found) < FAR:
            turn = Turn(texts[number], system)
            own = said.get(turn.text) or self._recall(turn)
            if own is None:
                if new == NEW_TURNS:
                    break
                own, new = self._choose_alone(turn, check), new + 1
            said[turn.text] = own
            found.append((turn, own))
            if self._speaks_for_itself(turn, own):
                return found
            number -= 1
        for earlier in _longest(texts, number):
            turn = Turn(texts[earlier], system)
            found.append((turn, self._recall(turn) or self._choose_alone(turn, check)))
            if self._speaks_for_itself(*found[-1]):
                return found
        first = Turn(texts[0], system)
        own = self._recall(first) or self._choose_alone(first, check)
        return [*found, (first, own._replace(follow_up=None))]  # the first turn follows nothing

    def _recall(self, turn: Turn) -> _Own | None:
        key = _hash(turn)
        with self._lock:
            own = self._remembered.get(key)
            if own is not None:
                self._remembered.move_to_end(key)
        return own

    def _choose_alone(self, turn: Turn, check: Callable[[], None]) -> _Own:
        check()
        choice = self._choose(turn)
        labels = choice.learnware_id is not None and not self._answers_in_sentences(choice.learnware_id)
        own = _Own(
            choice,
            self._follow_up(turn.text) if labels or choice.learnware_id is None else None,
            self._is_interface_task(turn.text, turn.system),
        )
        with self._lock:
            self._remembered[_hash(turn)] = own
            if len(self._remembered) > REMEMBERED_TURNS:
                self._remembered.popitem(last=False)
        return own

    def _speaks_for_itself(self, turn: Turn, own: _Own) -> bool:
        """Whether the same holds after this turn, whatever held before it."""
        if own.interface_task:
            return False
        choice = own.choice
        if choice.learnware_id is None:
            return own.follow_up is None and self._leaves(turn, own)
        others = (each.score for each in choice.candidates if each.learnware_id != choice.learnware_id)
        return self._clearly_better(choice, max(others, default=0.0))

    def _next(self, held: Choice, turn: Turn, own: _Own) -> tuple[Choice, Choice]:
        """Returns the choice that holds after a turn, and the choice that answers it."""
        if own.interface_task:
            return held, _base(own.choice, INTERFACE_TASK)
        after = own.choice if self._moves(held, turn, own) else held._replace(reason=SESSION)
        if (
            after.learnware_id is None
            or self._answers_in_sentences(after.learnware_id)
            or not self._wants_words(turn, own)
        ):
            return after, after
        return after, _base(after, EXPLANATION)

    def _wants_words(self, turn: Turn, own: _Own) -> bool:
        """Whether a label cannot answer the turn. Where it matches no learnware this is so unless it clearly goes on
        with the task, or is near enough to be the next item without a word."""
        if own.choice.learnware_id is not None:
            return own.follow_up is FollowUp.EXPLANATION
        if own.follow_up is None:
            return len(turn.text) < self._settings.leave_chars
        return own.follow_up is not FollowUp.CONTINUATION

    def _moves(self, held: Choice, turn: Turn, own: _Own) -> bool:
        """Whether the turn's own choice holds from now on."""
        choice, present = own.choice, held.learnware_id
        if present is None or choice.learnware_id == present:
            return True
        if choice.learnware_id is None:
            if own.follow_up is not None:
                return self._brings_something(turn, own) and self._answers_in_sentences(present)
            return self._leaves(turn, own)
        if self._answers_in_sentences(choice.learnware_id) and not self._answers_in_sentences(present):
            return True
        scores = {candidate.learnware_id: candidate.score for candidate in choice.candidates}
        return self._clearly_better(choice, scores.get(present, 0.0))

    def _brings_something(self, turn: Turn, own: _Own) -> bool:
        """Whether a turn that asks for words is about a text of its own ("Translate this: …"), which is unlike the
        learnware's tasks."""
        long = len(turn.text) > FOLLOW_UP_CHARS
        return long and own.follow_up is not FollowUp.CONTINUATION and self._leaves(turn, own)

    def _clearly_better(self, choice: Choice, other: float) -> bool:
        return choice.reason == MATCHED and choice.score - other >= self._settings.switch_margin

    def _leaves(self, turn: Turn, own: _Own) -> bool:
        """Whether a turn that matches no learnware has a topic of its own, should it be no follow-up."""
        unlike = own.choice.score < self._settings.leave_match or own.choice.reason == BASE_BETTER
        return len(turn.text) >= self._settings.leave_chars and unlike


def by_readings(choose_text: Callable[[str], Choice], instructs: Instructs = says_what_to_do) -> ChooseTurn:
    """Returns a function that chooses for a turn by each of its readings, and takes the learnware that one of them
    finds with most confidence: a neutral system prompt must not hide the question, and an instruction given as one must
    be found. `instructs` says whether a system prompt is such an instruction; the message without it then does not
    count."""

    return lambda turn: best_reading(choose_text, turn, instructs)[1]


def best_reading(
    choose_text: Callable[[str], Choice], turn: Turn, instructs: Instructs = says_what_to_do
) -> tuple[str, Choice]:
    """Returns the reading of a turn that decides, and its choice (`by_readings`)."""
    instructed = bool(turn.system) and instructs(turn.system)
    choices = [(reading, choose_text(reading)) for reading in turn.readings(instructed)]
    return max(choices, key=lambda pair: (pair[1].learnware_id is not None, pair[1].score))


def _longest(texts: Sequence[str], last: int) -> list[int]:
    """Returns the numbers of the longest turns from the second to number `last`, the latest first."""
    return sorted(heapq.nlargest(LONGEST, range(1, last + 1), key=lambda number: (len(texts[number]), number)))[::-1]


def _weakest(choices: Sequence[Choice]) -> Choice:
    """Returns the least confident of several choices of one learnware, with the least of all scores, so that a
    learnware that may replace the chosen one for one prompt may do so for all."""
    weakest = min(choices, key=lambda choice: choice.confidence)
    tables = [{each.learnware_id: each for each in choice.candidates} for choice in choices]
    common = [each for each in weakest.candidates if all(each.learnware_id in table for table in tables)]
    return weakest._replace(
        read=weakest.read if len(choices) == 1 else None,
        score=min(choice.score for choice in choices),
        candidates=tuple(
            each._replace(
                score=min(table[each.learnware_id].score for table in tables),
                quality=min(table[each.learnware_id].quality for table in tables),
            )
            for each in common
        ),
    )


def _base(choice: Choice, reason: str) -> Choice:
    return choice._replace(learnware_id=None, reason=reason)


def _hash(turn: Turn) -> bytes:
    digest = hashlib.blake2b(turn.system.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\xff")  # a byte that no UTF-8 text has
    digest.update(turn.text.encode("utf-8", "surrogatepass"))
    return digest.digest()
