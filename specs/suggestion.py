"""The nearest valid names to one that is not valid, for an error's message."""

import difflib
from collections.abc import Iterable

LIKENESS = 0.4
"""Least likeness of two names (`difflib`: the share of characters in common) at which one may stand for the other."""


def did_you_mean(name: str, names: Iterable[str], most: int = 3) -> str:
    """`; did you mean a, b?` with up to `most` names, the likeliest first; nothing where no name is near."""
    near = difflib.get_close_matches(name, list(names), n=most, cutoff=LIKENESS)
    return f"; did you mean {', '.join(near)}?" if near else ""
