"""The nearest valid names to one that is not valid, for an error's message.

Comparing two names takes 50 µs, so that ten thousand of them would take half a second. Beyond `COMPARED` names only
those are compared that share the rarest pieces with the one that was written: a typing error leaves most pieces as
they are. They are found by a search through all names as one text, which runs at the speed of memory.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter

LIKENESS = 0.4
"""Least likeness of two names (`difflib`: the share of characters in common) at which one may stand for the other."""
COMPARED = 24
"""Most names that are compared character by character."""
LONGEST = 128
"""Characters of a name from which on nothing is suggested: likeness takes long to tell, and no valid one is longer."""
_PIECE = 4
"""Characters of a piece."""
_PIECES = 12
"""Most pieces of a name that are searched for; a search through ten thousand names takes a fifth of a millisecond."""
_LOOKED_AT = 300
"""Most names that are looked at in all, those with the rarest pieces first."""


def did_you_mean(name: str, names: Iterable[str], most: int = 3) -> str:
    """`; did you mean a, b?` with up to `most` names, the likeliest first; nothing where no name is near."""
    if len(name) > LONGEST:
        return ""
    every = list(names)
    compared = every if len(every) <= COMPARED else _likely(name, every)
    near = difflib.get_close_matches(name, compared, n=most, cutoff=LIKENESS)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _likely(name: str, names: list[str]) -> list[str]:
    """Returns the names that have the most pieces of `name`, rare ones counting for more."""
    text = "\n" + "\n".join(names) + "\n"
    starts = max(1, len(name) - _PIECE + 1)
    pieces = {name[at : at + _PIECE] for at in range(0, starts, math.ceil(starts / _PIECES))} - {""}
    numbers = {piece: text.count(piece) for piece in pieces if "\n" not in piece}
    shared: Counter[str] = Counter()
    left = _LOOKED_AT
    for piece, number in sorted(numbers.items(), key=itemgetter(1)):
        at = text.find(piece)
        while at >= 0 and left:
            end = text.index("\n", at)
            shared[text[text.rindex("\n", 0, at) + 1 : end]] += 1 / number  # type: ignore[assignment]
            at, left = text.find(piece, end), left - 1
    return [likely for likely, _ in shared.most_common(COMPARED)]
