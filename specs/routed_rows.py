"""A task's rows as the router reads requests, which is what a specification has to be made from.

The router chooses by the user's turns (`router.turn`): a turn alone, or, where the system prompt says what is to be
done with every message, below that prompt's beginning. A short later turn ("and in 2019?") may be a follow-up, which
says nothing of the task by itself, so a conversation counts by its first turn and by those that are too long for one.
"""

from collections.abc import Sequence
from functools import lru_cache

from specs.encoding.encoder import load_prompt_encoder
from specs.encoding.system_prompt import instruction_probability
from specs.home import load_home
from specs.row_forms import FormedRow

SYSTEM_CHARS = 420
"""Characters of a system prompt that are read together with a turn, from either end. The instruction lines of 39 public
tasks, labels included, have 24 to 415; policy and examples would drown the question."""
INSTRUCTS_FROM = 0.7
"""Probability from which a system prompt is taken to instruct (`specs.encoding.system_prompt`). In six-fold
cross-validation on the project's own, which were written to be hard, three quarters of those that do are found, nine of
ten of the others let pass; one that is not found is read like any other system prompt."""
SYSTEMS_KEPT = 1024
"""System prompts whose verdict is kept: a new one takes about 25 ms."""
FOLLOW_UP_CHARS = 160
"""Characters of the longest turn that can be a follow-up as a whole. In a longer one only the first clause and the last
sentence can: the rest is a topic, or the next item."""


@lru_cache(maxsize=SYSTEMS_KEPT)
def says_what_to_do(system: str) -> bool:
    """Whether a system prompt says what is to be done with every message (`specs.encoding.system_prompt`)."""
    return instruction_probability(system, load_home().instruction, load_prompt_encoder()) >= INSTRUCTS_FROM


def routed_rows(rows: Sequence[FormedRow]) -> list[FormedRow]:
    """Returns the rows whose prompts tell the task by themselves, with the texts by which the router would find it as
    their prompts. Never empty, unless `rows` is."""
    telling = [row for row in rows if _tells(row)] or list(rows)
    return [row._replace(prompt=_read(row), before=()) for row in telling]


def _tells(row: FormedRow) -> bool:
    later = any(message.role == "user" for message in row.before)
    return not later or len(row.prompt) > FOLLOW_UP_CHARS


def _read(row: FormedRow) -> str:
    system = "\n".join(message.content for message in row.before if message.role == "system").strip()
    if not system or not says_what_to_do(system):
        return row.prompt
    return f"{system[:SYSTEM_CHARS].strip()}\n{row.prompt}"
