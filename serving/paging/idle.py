"""Idle work: what a replica has its engine do of its own accord, in time that no client's request wants.

A task that is inside `as_idle_work` gives the engine idle work. Nothing that a client sends leads there: the mark is a
context variable, which the replica sets in tasks of its own (`serving.replica.idle_work`), and what a client writes in
its place is overwritten at the gate (`serving.paging.caller_params`). The engine runs idle work behind everything else
(`serving.paging.scheduler`), and it is no request of any tenant: it has no share, and neither usage nor time limits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_idle: ContextVar[bool] = ContextVar("idle_work", default=False)


def is_idle_work() -> bool:
    """Returns whether the running task does idle work."""
    return _idle.get()


@contextmanager
def as_idle_work() -> Iterator[None]:
    """Makes what the running task, and every task that it starts, gives to the engine idle work."""
    before = _idle.set(True)
    try:
        yield
    finally:
        _idle.reset(before)
