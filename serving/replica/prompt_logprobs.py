"""Refuses requests for log-probabilities of their prompt while an adapter of `lm_head` is registered.

With such an adapter in the batch they raise inside the engine, which fails every request of the batch: vLLM 0.29 asks
for the logits of prompt tokens without saying whose they are (`serving.engine.punica`). So while an engine has such an
adapter, requests that ask for them are refused, whichever model they name; and a new one of these adapters waits for
the requests that were admitted before it.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from specs.engine_name import split_engine_name
from specs.errors import InvalidInput

logger = logging.getLogger("ray.serve")

WAIT_S = 30.0
"""Seconds that a new adapter waits for requests that were admitted before it. Their log-probabilities are computed
while the prompt is read, which is over by then; the rest of their answers is not worth waiting for."""

_FALSE = frozenset({"false", "f", "no", "n", "off", "0", ""})
"""Texts by which a client turns `echo` off: those that pydantic reads as False, and the empty one."""


class PromptLogprobs:
    """Admits requests with prompt log-probabilities to one engine, or adapters of `lm_head`, but not both at a time."""

    def __init__(self) -> None:
        self._adapters: set[str] = set()
        self._requests = 0
        self._none_left = asyncio.Event()
        self._none_left.set()

    @contextmanager
    def admit(self, path: str, payload: Mapping[str, Any]) -> Iterator[None]:
        """Surrounds a request with this body from its admission to the end of its answer.

        Raises:
            InvalidInput: the request asks for log-probabilities of its prompt, and an adapter of `lm_head` is
                registered.
        """
        if not asks_for_them(path, payload):
            yield
            return
        if self._adapters:
            names = sorted({split_engine_name(name)[0] for name in self._adapters})
            raise InvalidInput(
                "Log-probabilities of the prompt (prompt_logprobs, or echo with logprobs) are not available while a "
                f"learnware that adapts lm_head is served ({', '.join(names[:3])}). Leave them out; logprobs of the "
                "answer are available."
            )
        self._requests += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._none_left.set()

    async def exclude(self, engine_name: str) -> None:
        """Refuses such requests from now on and returns when those that run are done, or after `WAIT_S`. It must be
        called before the adapter of `lm_head` with this engine name answers its first request."""
        self._adapters.add(engine_name)
        try:
            await asyncio.wait_for(self._none_left.wait(), WAIT_S)
        except TimeoutError:
            logger.warning("%d requests with prompt_logprobs still run as %s comes", self._requests, engine_name)

    def include(self, engine_name: str) -> None:
        """Takes back `exclude` when no request can use that adapter any more; an adapter that was never excluded
        changes nothing."""
        self._adapters.discard(engine_name)


def asks_for_them(path: str, payload: Mapping[str, Any]) -> bool:
    """Returns whether a body asks for log-probabilities of the prompt, as vLLM 0.29 reads it.

    It does with `prompt_logprobs` (0 included) in the body or its `sampling_params`, and with `echo` together with
    `logprobs` (completions) or `top_logprobs` (chat, where a missing one is 0).
    """
    if payload.get("prompt_logprobs") is not None:
        return True
    sampling = payload.get("sampling_params")
    if isinstance(sampling, Mapping) and sampling.get("prompt_logprobs") is not None:
        return True
    echo = payload.get("echo")
    if not echo or (isinstance(echo, str) and echo.strip().lower() in _FALSE):
        return False
    asked = payload.get("top_logprobs", 0) if "/chat/" in path else payload.get("logprobs")
    return asked is not None
