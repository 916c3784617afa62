"""The tokens that the request of the running task takes from the engine.

The admission gate (`serving.paging.gate`) counts them where outputs leave the engine, so that streamed and complete
answers of every API are counted alike; the replica's limits (`serving.replica.limits`) read them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class TokenCount:
    """The tokens of one run of the engine, from its outputs (vLLM's `RequestOutput`)."""

    def __init__(self, incremental: bool) -> None:
        """Makes a count at nothing. `incremental` says that outputs hold only the tokens since the one before (vLLM's
        `RequestOutputKind.DELTA`); otherwise they hold all of them."""
        self._incremental = incremental
        self._answers: dict[int, int] = {}
        self.prompt: int | None = None
        """Tokens of the prompt; None before the first output."""

    @property
    def generated(self) -> int:
        """Tokens of all answers so far."""
        return sum(self._answers.values())

    def see(self, output: Any) -> int:
        """Takes note of an output, and returns the number of tokens that it brings."""
        new = 0
        if self.prompt is None:
            self.prompt = new = len(getattr(output, "prompt_token_ids", None) or ())
        sequences = getattr(output, "outputs", ())
        for sequence in sequences if isinstance(sequences, list) else ():
            given, before = len(sequence.token_ids), self._answers.get(sequence.index, 0)
            self._answers[sequence.index] = after = before + given if self._incremental else max(before, given)
            new += after - before
        return new


class Account:
    """The tokens of one request. It is closed by whoever opened it, and settled once the engine runs nothing for it any
    more: an answer in the background outlasts its HTTP request."""

    def __init__(self, settle: Callable[["Account"], None]) -> None:
        """Opens an account; `settle` is called once, with the account, when it is closed and nothing runs for it."""
        self._settle = settle
        self._runs = 0
        self._closed = False
        self.tokens = 0
        """Tokens of prompts, and of answers as far as the engine has given them out."""
        self.entered = False
        """Whether the engine was given anything."""
        self.unseen = False
        """Whether something ended before the engine gave anything out, so that `tokens` lacks what it took."""

    def close(self) -> None:
        """Ends the HTTP request's part."""
        self._closed = True
        self._settle_if_done()

    @contextmanager
    def running(self, tokens: TokenCount) -> Iterator[Callable[[Any], None]]:
        """Counts one run of the engine by `tokens`; the value is to be called with each output."""
        self.entered = True
        self._runs += 1

        def count(output: Any) -> None:
            self.tokens += tokens.see(output)

        try:
            yield count
        finally:
            self._runs -= 1
            self.unseen = self.unseen or tokens.prompt is None
            self._settle_if_done()

    def _settle_if_done(self) -> None:
        if self._closed and not self._runs:
            settle, self._settle = self._settle, _settled
            settle(self)


def _settled(_: Account) -> None:
    """Does nothing: an account is settled once."""


account: ContextVar[Account | None] = ContextVar("account", default=None)
"""The account of the running request; None outside of one, and for requests without limits."""


@contextmanager
def counted(tokens: TokenCount) -> Iterator[Callable[[Any], Any]]:
    """Counts one run of the engine by `tokens`, and on the running request's account, if there is one; the value is to
    be called with each output."""
    current = account.get()
    if current is None:
        yield tokens.see
        return
    with current.running(tokens) as count:
        yield count
