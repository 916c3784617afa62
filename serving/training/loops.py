"""Detects loops in greedy decoding: once a model says the same piece again and again, it says nothing else any more."""

from collections.abc import Sequence

LONGEST_LOOP, LOOP_ROUNDS, LOOP_TOKENS = 8, 3, 12


def is_looping(tokens: Sequence[int]) -> bool:
    """Returns whether the last tokens repeat one piece of at most LONGEST_LOOP tokens, LOOP_ROUNDS times or more, over
    at least LOOP_TOKENS tokens."""
    for period in range(1, LONGEST_LOOP + 1):
        span = max(LOOP_TOKENS, LOOP_ROUNDS * period)
        if len(tokens) >= span and tokens[-span:-period] == tokens[len(tokens) - span + period :]:
            return True
    return False
