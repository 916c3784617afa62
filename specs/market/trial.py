"""What an engine says of a learnware before it is served. Knows nothing of vLLM: the market's process reads it too."""

from collections.abc import Mapping
from typing import NamedTuple

from specs.off_task import MAX_TOKENS, Kind, OffTaskScore

PROTOCOL = (
    f"greedy answers of at most {MAX_TOKENS} tokens on the engine, one user turn; drift: log p(base's answer) under "
    "the adapter, less under the base, a token, those beyond the first that differs by one of them drawn; degenerate: "
    "where the base's is not; engine v1"
)


class Trial(NamedTuple):
    """What an engine says of a learnware before it is served: why it must not be, or None, and what it does off its
    task; empty where that could not be measured."""

    refusal: str | None
    elsewhere: Mapping[Kind, OffTaskScore] = {}
