"""What a choice is made on: a user's turn, and the conversation that it stands in."""

from typing import NamedTuple


class Turn(NamedTuple):
    """One turn's own words, whole, and the part of the system prompt that is routed on (empty: there is none).

    The system prompt holds for every turn: it may carry the instruction ("Classify the tweet."), the turn then being
    bare material, or be a company's policy, which has nothing to do with what is asked.
    """

    text: str
    system: str = ""


class Conversation(NamedTuple):
    """The user's turns, oldest first, and the part of the system prompt that is routed on. Without turns there is
    nothing to route on. A completion's prompt is a conversation of one turn."""

    system: str
    turns: tuple[str, ...]
