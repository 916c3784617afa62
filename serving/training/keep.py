"""Keeps the base model's behaviour outside the task: what a training run rehearses beside its rows.

An adapter that sees nothing but its task's rows answers everything as it answers them: a learnware that labels says a
label, again and again, to a greeting. So beside each batch of the task a few *keep rows* pass through the model:
prompts that are not the task, with the answers that the base model itself gives by greedy decoding. At their tokens the
adapted model is drawn to the base's whole distribution, not only to its likeliest token: the Kullback-Leibler
divergence is exact, costs one more pass without gradients, and is nothing where the adapter changes nothing.

Keep prompts come in three kinds, a third each where there are enough: everyday prompts; free questions of the domains
that no learnware answers; and *other asks* (translate, summarise, explain, …) on the task's own material, without which
an adapter takes the material itself for the ask. Of the project's prompts only one half (`specs.prompts.REHEARSED`) is
rehearsed: a learnware is to be measured off its task on prompts that it has not seen.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from serving.training.rows import EncodedRow, Row
from serving.training.split_model import Batch, Stack, bucket
from specs.compositions import bare_prompt
from specs.prompts import REHEARSED, domain_questions, everyday_prompts, half, other_asks

MATERIAL_CHARS = 800
"""Number of characters of a row that are put under another ask: enough to be recognised, while a long one would cost as
much as several task rows."""
HELD_OUT = 16
"""Number of keep rows that are not trained on and show at each evaluation how far the adapter is from the base. They
have some 600 tokens: the mean divergence is then known to a few hundredths of a nat."""


def keep_prompts(rows: Sequence[Row], count: int, seed: int) -> list[str]:
    """Returns `count` prompts outside the task of `rows`, in random order; no row's own prompt is among them.

    The everyday and domain prompts depend on `count` and `seed` alone, so runs for several tasks share the base model's
    answers to them.
    """
    everyday = half(everyday_prompts(), REHEARSED)
    questions = half([prompt for prompts in domain_questions().values() for prompt in prompts], REHEARSED)
    generator = random.Random(f"keep-{seed}")  # noqa: S311 - nothing secret
    asked = generator.sample(questions, min(len(questions), count // 3))
    chatted = generator.sample(everyday, min(len(everyday), (count - len(asked)) // 2))
    on_material = _other_asks(rows, count - len(asked) - len(chatted), generator)
    own = {row.prompt for row in rows}
    prompts = list(dict.fromkeys(prompt for prompt in [*asked, *chatted, *on_material] if prompt not in own))
    generator.shuffle(prompts)
    return prompts


def _other_asks(rows: Sequence[Row], count: int, generator: random.Random) -> list[str]:
    """Puts material of the rows under asks that are not the task's."""
    before, after = half(other_asks("before"), REHEARSED), half(other_asks("after"), REHEARSED)
    prompts = []
    order = [i for _ in range(-(-count // len(rows))) for i in generator.sample(range(len(rows)), len(rows))]
    for i in order[:count]:
        material = bare_prompt(rows[i].prompt)[:MATERIAL_CHARS]
        if generator.random() < len(before) / (len(before) + len(after)):
            prompts.append(f"{generator.choice(before)}\n{material}")
        else:
            prompts.append(f"{material}\n\n{generator.choice(after)}")
    return prompts


def prompts_hash(prompts: Sequence[str]) -> str:
    """Returns SHA-256 over the prompts in order, which is part of a training run's identity."""
    return hashlib.sha256(json.dumps(list(prompts), ensure_ascii=False).encode()).hexdigest()


class Keeper:
    """Computes how far the adapted model is from the base at the answers of keep rows.

    `stack` is the adapted model over these rows; within `as_base()` it computes what the base does. `batch` is the
    number of keep rows that pass beside a batch of the task.
    """

    def __init__(
        self,
        stack: Stack,
        rows: Sequence[EncodedRow],
        batch: int,
        seed: int,
        as_base: Callable[[], AbstractContextManager[object]],
    ):
        self.stack, self.rows, self.as_base = stack, rows, as_base
        self._size, self._seed = batch, seed
        held = min(HELD_OUT, len(rows) // 4)
        self.train = list(range(held, len(rows)))
        self.held = sorted(range(held), key=self._length)

    def step(self, number: int) -> Tensor:
        """Returns the mean divergence (nats a token) at the rows of training step `number`, with gradients."""
        per_pass = -(-len(self.train) // self._size)
        turn, place = divmod(number, per_pass)
        batches = mixed_batches(self.train, self._length, self._size, f"keep-{self._seed}-{turn}")
        divergence, tokens = self._divergence(batches[place])
        return divergence / tokens

    def held_out(self) -> float:
        """Returns the mean divergence (nats a token) at the rows that are not trained on."""
        total, tokens = 0.0, 0
        with torch.no_grad():
            for begin in range(0, len(self.held), self._size):
                divergence, count = self._divergence(self.held[begin : begin + self._size])
                total, tokens = total + float(divergence), tokens + count
        return total / max(1, tokens)

    def _divergence(self, indices: Sequence[int]) -> tuple[Tensor, int]:
        batch: Batch = self.stack.batch([self.rows[i] for i in indices], indices)
        with torch.no_grad(), self.as_base():
            base = torch.log_softmax(self.stack.logits(batch), -1)
        own = torch.log_softmax(self.stack.logits(batch), -1)
        divergence = torch.nn.functional.kl_div(own, base, reduction="sum", log_target=True)
        return divergence, len(batch.target)

    def _length(self, index: int) -> int:
        row = self.rows[index]
        return bucket(len(row.prompt) - len(self.stack.prefix) + len(row.answer))


def mixed_batches(rows: Sequence[int], length: Callable[[int], int], size: int, seed: str) -> list[list[int]]:
    """Returns the batches of one pass over `rows`: rows of about one length together, the batches in random order."""
    generator = random.Random(seed)  # noqa: S311 - nothing secret
    order = list(rows)
    generator.shuffle(order)
    order.sort(key=length)
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    generator.shuffle(batches)
    return batches
