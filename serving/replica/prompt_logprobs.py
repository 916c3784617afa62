"""Which requests may ask for log-probabilities of their prompt.

With an adapter of `lm_head` in the batch they raise inside the engine, and everybody's requests with them: vLLM asks
for the logits of prompt tokens without saying whose they are (`serving.engine.punica`). So while an engine has such an
adapter, requests that ask for them are refused, whichever model they name; and an adapter that comes waits for those
that were admitted before.
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
"""How long an adapter waits for requests that were admitted before it. They are computed while a prompt is read, which
is over by then; only the answers' ends are not worth more waiting."""

_FALSE = frozenset({"false", "f", "no", "n", "off", "0", ""})


class PromptLogprobs:
    """Of one engine."""

    def __init__(self) -> None:
        self._adapters: set[str] = set()
        self._requests = 0
        self._none_left = asyncio.Event()
        self._none_left.set()

    @contextmanager
    def admit(self, path: str, payload: Mapping[str, Any]) -> Iterator[None]:
        """Around a request with this body, from its admission to the end of its answer.

        Raises:
            InvalidInput: it asks for log-probabilities of its prompt, and they are not available.
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
        """Before an adapter of `lm_head` answers its first request; it is called so in the engine."""
        self._adapters.add(engine_name)
        try:
            await asyncio.wait_for(self._none_left.wait(), WAIT_S)
        except TimeoutError:
            logger.warning("%d requests with prompt_logprobs still run as %s comes", self._requests, engine_name)

    def include(self, engine_name: str) -> None:
        """When no request can use that adapter any more; nothing happens if it was never excluded."""
        self._adapters.discard(engine_name)


def asks_for_them(path: str, payload: Mapping[str, Any]) -> bool:
    """Whether a body asks for log-probabilities of the prompt, as vLLM 0.29 reads it: `prompt_logprobs`, 0 included, in
    the body or its `sampling_params`; or `echo` with `logprobs` (completions), with `top_logprobs` (chat), which is 0
    where it is left out."""
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
