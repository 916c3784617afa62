"""The tokens that the request of the running task takes from the engine.

The admission gate (`serving.paging.gate`) counts them where outputs leave the engine, so that streamed and complete
answers of every API are counted alike; the replica's limits (`serving.replica.limits`) read them.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


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
    def running(self, incremental: bool) -> Iterator[Callable[[Any], None]]:
        """Counts one run of the engine; the value is to be called with each output (vLLM's `RequestOutput`).

        Args:
            incremental: outputs hold only the tokens since the one before (vLLM's `RequestOutputKind.DELTA`);
                otherwise all of them.
        """
        self.entered = True
        self._runs += 1
        prompt: int | None = None
        answers: dict[int, int] = {}

        def count(output: Any) -> None:
            nonlocal prompt
            if prompt is None:
                prompt = len(getattr(output, "prompt_token_ids", None) or ())
                self.tokens += prompt
            sequences = getattr(output, "outputs", ())
            for sequence in sequences if isinstance(sequences, list) else ():
                given, before = len(sequence.token_ids), answers.get(sequence.index, 0)
                answers[sequence.index] = after = before + given if incremental else max(before, given)
                self.tokens += after - before

        try:
            yield count
        finally:
            self._runs -= 1
            self.unseen = self.unseen or prompt is None
            self._settle_if_done()

    def _settle_if_done(self) -> None:
        if self._closed and not self._runs:
            settle, self._settle = self._settle, _settled
            settle(self)


def _settled(_: Account) -> None:
    """Does nothing: an account is settled once."""


def _ignore(_: Any) -> None:
    """Counts nothing."""


account: ContextVar[Account | None] = ContextVar("account", default=None)
"""The account of the running request; None outside of one, and for requests without limits."""


@contextmanager
def counted(incremental: bool) -> Iterator[Callable[[Any], None]]:
    """Counts one run of the engine on the running request's account, if there is one (`Account.running`)."""
    current = account.get()
    if current is None:
        yield _ignore
        return
    with current.running(incremental) as count:
        yield count
