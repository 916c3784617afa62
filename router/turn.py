"""The texts that a choice is made on: a user's turn, and the conversation that it stands in."""

from typing import NamedTuple

from specs.routed_rows import SYSTEM_CHARS


class Turn(NamedTuple):
    """One turn's own words, whole, and the system prompt (empty: there is none), of which a long one's ends count.

    The system prompt holds for every turn: it may carry the instruction ("Classify the tweet."), the turn then being
    material without an ask, or be a company's policy, which has nothing to do with the ask, or both.
    """

    text: str
    system: str = ""

    def readings(self, instructed: bool = False) -> tuple[str, ...]:
        """Returns the texts that a learnware may be found by: the turn alone, and with the system prompt's beginning
        and, of a longer one, its end before it. Where the turn is `instructed` by its system prompt, it never stands
        alone."""
        if not self.system:
            return (self.text,)
        ends = [self.system[:SYSTEM_CHARS], self.system[-SYSTEM_CHARS:]]
        together = tuple(f"{end.strip()}\n{self.text}" for end in dict.fromkeys(ends))
        return together if instructed else (self.text, *together)


class Conversation(NamedTuple):
    """The user's turns, oldest first, and the system prompt, as in `Turn`. Without turns there is nothing to route on.
    A completion's prompt is a conversation of one turn."""

    system: str
    turns: tuple[str, ...]
