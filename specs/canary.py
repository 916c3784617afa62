"""Canaries: a new version of a learnware that answers a small share of its requests before it takes its place.

A canary is served beside its learnware under an id of its own, the learnware's with `@canary` after it. No card may
have such an id (`specs.card.id_fault`), so nobody can take the name; and whatever goes by id (metrics, the log of
decisions, feedback, paging, requests by name) keeps the two versions apart.
"""

import math

from specs.errors import InvalidInput

_ENDING = "@canary"


def canary_id(learnware_id: str) -> str:
    """Returns the id under which the canary of a learnware is served."""
    return learnware_id + _ENDING


def is_canary(model: str) -> bool:
    """Whether this is the id of a canary."""
    return model.endswith(_ENDING)


def learnware_of(model: str) -> str:
    """Returns the learnware of a canary's id; any other name stands for itself."""
    return model.removesuffix(_ENDING)


def read_share(text: str) -> float:
    """Returns the share of a canary that is written as a number (`0.05`) or in per cent (`5%`).

    Raises:
        InvalidInput: it is neither, or not above 0 and below 1.
    """
    number, mark, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if mark else 1)
    except ValueError:
        share = math.nan
    if rest or not 0 < share < 1:
        raise InvalidInput(
            f"the share of a canary is a number above 0 and below 1, such as 0.05, or in per cent, such as 5%; not "
            f"{text[:40]!r}"
        )
    return share


def share_in_words(share: float) -> str:
    """Returns a share in per cent, for people."""
    return f"{100 * share:g} %"
