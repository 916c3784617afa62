"""Tries an adapter on the running engine before it is served: it must give finite probabilities that differ from the
base model's."""

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from vllm import SamplingParams

PROBES = 3
"""Number of prompts tried, the card's examples first."""
PROMPTS = ("What is the answer?", "Explain in one sentence:", "positive, neutral or negative:")
"""Prompts tried when a card has too few examples. Their wording does not matter: an adapter that changes the model
changes its probabilities everywhere."""
LOGPROBS = 20
"""Number of likeliest first tokens compared: the most that vLLM gives by default."""

MIN_DIFFERENCE = 0.02
"""Least difference (nats) by which the log-probability of one of the first token's candidates must move, at least once.
One request in two batches of different size differs by about this much in bfloat16; trained adapters move them by 0.1
to 10. An adapter whose weights change nothing at all is refused before (`specs.adapter`), whatever the noise."""


async def probe(engine: Any, request: Any, examples: Sequence[str]) -> str | None:
    """Returns why the adapter of `request` (vLLM's `LoRARequest`) must not be served on `engine`, or None if it may."""
    largest = 0.0
    for prompt in (*examples, *PROMPTS)[:PROBES]:
        own, base = await _first_token(engine, prompt, request), await _first_token(engine, prompt, None)
        if not own or not all(math.isfinite(value) for value in own.values()):
            return "on the engine its answers are not finite numbers"
        largest = max(largest, difference(own, base))
    if largest < MIN_DIFFERENCE:
        return (
            f"on the engine it answers as the base model does: no probability moves by more than {largest:.4f} "
            f"(log), where {MIN_DIFFERENCE} is the least"
        )
    return None


def difference(own: Mapping[int, float], base: Mapping[int, float]) -> float:
    """Returns the largest difference of log-probability over the tokens that both list, infinity when they share
    none."""
    shared = own.keys() & base.keys()
    return max((abs(own[token] - base[token]) for token in shared), default=math.inf)


async def _first_token(engine: Any, prompt: str, request: Any) -> dict[int, float]:
    """Returns the log-probabilities of the likeliest first tokens of the answer, by token; empty when there is no
    answer."""
    parameters = SamplingParams(temperature=0.0, max_tokens=1, logprobs=LOGPROBS)
    last: Any = None
    async for output in engine.generate(
        {"prompt": prompt}, parameters, request_id=f"probe-{uuid.uuid4()}", lora_request=request
    ):
        last = output
    if last is None or not last.outputs or not last.outputs[0].logprobs:
        return {}
    return {token: entry.logprob for token, entry in last.outputs[0].logprobs[0].items()}
