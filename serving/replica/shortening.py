"""Whether an answer that is asked to be longer than there is room for is shortened, for the running request.

`serving.replica.middleware` says it, and `serving.replica.room` asks when the prompt's length is known.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_shortened: ContextVar[bool] = ContextVar("answer_is_shortened", default=False)


@contextmanager
def shortened(shorten: bool) -> Iterator[None]:
    """Says for the running request whether a longer answer than there is room for is shortened, or refused."""
    before = _shortened.set(shorten)
    try:
        yield
    finally:
        _shortened.reset(before)


def is_shortened() -> bool:
    """Returns what `shortened` said; False outside of it."""
    return _shortened.get()
