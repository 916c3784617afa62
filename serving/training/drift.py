"""Measures without an engine how adapters change answers to requests off their task: drift and degenerate answers
(`specs.off_task`).

The base model's greedy answers serve as drafts (`serving.training.generation`): one pass over prompt and draft gives
the drift, and the place where the adapter would have said something else; only from there on is it decoded token by
token.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from serving.training.adapter import computing_type, load_base
from serving.training.generation import (
    GreedyAnswer,
    base_answers,
    verified_answers,
    weights_fingerprint,
)
from serving.training.rows import encode_prompt
from serving.training.shared_base import SharedBase, check_measurable
from specs.errors import InvalidLearnware
from specs.off_task import MAX_TOKENS, Answered, Kind, OffTaskScore, score

PROTOCOL = (
    f"greedy answers of at most {MAX_TOKENS} tokens, one user turn; drift: log p(base's answer and its end of "
    "turn) under the adapter, less under the base, a token; degenerate: where the base's is not; offline v1"
)
"""Name of the way of measuring, kept with each result."""
MAX_LENGTH = 512
"""Largest length of a prompt in tokens; longer ones lose their middle."""


class DriftMeter:
    """A base model with which adapters are measured off their task, one after the other."""

    def __init__(self, base: Path, cache: Path, device: str = "cpu") -> None:
        """Loads the base model in the folder `base`; its answers are kept in `cache`."""
        self.model, self.tokenizer = load_base(base, device, computing_type(device))
        self._shared = SharedBase(self.model)
        self._weights = weights_fingerprint(base)
        self._cache = cache

    def base_answers(
        self, prompts: Sequence[str], progress: Callable[[int], object] = lambda _: None
    ) -> list[GreedyAnswer]:
        """Returns the base model's answers, which are made once for a base model and kept."""
        return base_answers(
            self.model, self.tokenizer, self._encoded(prompts), self._weights, self._cache, MAX_TOKENS, progress
        )

    def measure(
        self,
        adapter: Path,
        prompts: Mapping[Kind, Sequence[str]],
        labels: Collection[str] = (),
        progress: Callable[[int], object] = lambda _: None,
    ) -> dict[Kind, OffTaskScore]:
        """Returns the scores of a PEFT folder by kind of prompt.

        Args:
            adapter: the PEFT folder.
            prompts: prompts by kind.
            labels: the labels with which it answers its own task.
            progress: called with the number of prompts done.

        Raises:
            InvalidLearnware: it cannot be served, or loaded without changing the base, or its answers are not finite
                numbers.
        """
        check_measurable({adapter.name: adapter})
        texts = [prompt for some in prompts.values() for prompt in some]
        base = self.base_answers(texts)
        answered = iter(self._answered(adapter, texts, base, progress))
        return {kind: score([next(answered) for _ in some], labels) for kind, some in prompts.items()}

    def _answered(
        self, adapter: Path, texts: Sequence[str], base: Sequence[GreedyAnswer], progress: Callable[[int], object]
    ) -> list[Answered]:
        try:
            self._shared.attach(adapter.name, adapter)
            with self._shared.using(adapter.name):
                own = verified_answers(
                    self.model,
                    self.tokenizer,
                    self._encoded(texts),
                    [answer.tokens for answer in base],
                    MAX_TOKENS,
                    progress,
                    stop_loops=True,
                )
        finally:
            self._shared.detach()
        answered = []
        for one, other in zip(own, base, strict=True):
            ratio = one.draft_log_likelihood - other.log_likelihood
            if not math.isfinite(ratio):
                raise InvalidLearnware(f"learnware {adapter.name}: its answers are not finite numbers")
            answered.append(
                Answered(one.answer.text(self.tokenizer), other.text(self.tokenizer), ratio, len(other.tokens))
            )
        return answered

    def _encoded(self, prompts: Sequence[str]) -> list[list[int]]:
        return [encode_prompt(prompt, self.tokenizer, MAX_LENGTH) for prompt in prompts]
