"""A conversation stays with its learnware unless its topic really changes.

The router keeps no session: every chat request carries its whole conversation, so the user turns are replayed, oldest
first, and the same conversation gives the same learnware in every router replica and after a restart. A turn moves the
conversation when, alone, it speaks clearly enough:

- from the base model ("hi") to whatever the turn matches;
- from one learnware to another only when the turn is matched with a better score for the other than for the present
  one, by `switch_margin`: a follow-up ("and in 2019?") is near many learnwares, and a shared wording must not make a
  conversation flap;
- from a learnware to the base model only when the turn's confidence is below `leave_confidence` and it is neither short
  (`leave_chars`) nor a follow-up (`router.follow_ups`): "why?" and "explain that in one sentence" have no topic of
  their own, "write a poem about autumn" has.
"""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from router.choice import MATCHED, NO_TEXT, SESSION
from router.selection import Choice

ChooseTurn = Callable[[str], Choice]
IsFollowUp = Callable[[str], bool]


class ConversationSettings(BaseModel):
    """When a later turn moves a conversation to another learnware. Scores and confidences are those of
    `router.selection`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    switch_margin: float = Field(
        0.05, ge=0, le=1, description="By how much another learnware must score better on the turn."
    )
    leave_chars: int = Field(16, ge=0, description="Characters from which a turn may have a topic of its own.")
    leave_confidence: float = Field(
        0.2, ge=0, le=1, description="Below this confidence such a turn goes to the base model."
    )


def choose_for_conversation(
    turns: Sequence[str], choose: ChooseTurn, is_follow_up: IsFollowUp, settings: ConversationSettings
) -> Choice:
    """The choice for a conversation's user turns (oldest first). `choose` decides one text alone;
    `is_follow_up` says whether a text has no
    topic of its own.

    The result's reason is `matched` when the last turn alone decides the same, `session` when an earlier turn holds.
    """
    if not turns:
        return Choice(None, 0.0, 0.0, NO_TEXT, ())
    held = choose(turns[0])
    for turn in turns[1:]:
        held = _next(held, choose(turn), turn, is_follow_up, settings)
    return held


def _next(held: Choice, own: Choice, turn: str, is_follow_up: IsFollowUp, settings: ConversationSettings) -> Choice:
    """What holds after a turn whose own choice is `own`."""
    if held.learnware_id is None or own.learnware_id == held.learnware_id:
        return own
    if own.learnware_id is None:
        speaks = len(turn) >= settings.leave_chars and own.confidence < settings.leave_confidence
        return own if speaks and not is_follow_up(turn) else held._replace(reason=SESSION)
    scores = {candidate.learnware_id: candidate.score for candidate in own.candidates}
    present = scores.get(held.learnware_id, 0.0)
    if own.reason == MATCHED and own.score - present >= settings.switch_margin:
        return own
    return held._replace(reason=SESSION)
