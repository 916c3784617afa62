"""The base model as training and scoring run it: a frozen lower part, an adapted upper part, and a shared prefix.

Three savings, none of which changes what is computed (`check_integrity` compares with the model run plainly):

- Rows of a task begin alike (system turn, instruction line). The shared tokens pass through the model once a batch, not
  once a row, and their keys and values are repeated over the rows; gradients flow through both parts.
- Layers below the first adapted one never change, so their output is kept for each row instead of computed again each
  epoch, or again for each adapter that is scored.
- Logits are computed only where an answer token is predicted.

Models whose decoder is not a plain list `layers` of full-attention layers followed by `norm` run without the first two.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from serving.training.rows import EncodedRow

BUCKETS = ((16, 128), (32, 256), (64, 1 << 30))
"""Steps and limits of padded lengths: a row is padded to a multiple of the first step whose limit it does not pass.
Every new shape costs oneDNN a second or so in bf16 on CPU (torch 2.13); every padded token costs as much as a real
one."""

TOLERANCE = 0.25
"""Largest difference of a log-probability (nats) between the divided run and the plain run that bf16 rounding explains;
about 0.1 is usual for SmolLM2-135M."""

UNLIKELY = -8.0
"""Log-probabilities below this are compared as if they were equal to it: bf16 differs more where nothing depends on
it."""

KEEP_BYTES = 4 << 30
"""Bytes of memory for kept activations: 1,000 rows of 400 tokens of a 135M model need 0.5 GB."""


class Batch(NamedTuple):
    """Rows without their shared prefix, padded on the right to one length."""

    tokens: Tensor
    """(rows, length): token ids."""
    row: Tensor
    """(answer tokens,): the row that an answer token belongs to."""
    position: Tensor
    """(answer tokens,): the place at which an answer token is predicted, one before the place where it stands."""
    target: Tensor
    """(answer tokens,): the token ids."""
    indices: tuple[int, ...]
    """Numbers of the rows in the store of kept activations; activations of a negative one are not kept."""
    places: Tensor | None = None
    """(rows, length): positions in the text, or None where they are simply ascending."""
    sees: Tensor | None = None
    """(rows, length, length), bool: what a token sees besides the prefix, or None where it is all before it."""


class Stack:
    """A causal language model seen as frozen lower layers, upper layers, final norm and output matrix.

    `first` is the index of the first layer of the upper part. `prefix` holds the tokens that every row begins with.
    """

    def __init__(self, model: Any, first: int, prefix: Sequence[int], divided: bool = True):
        self.model = model
        self.decoder = model.get_decoder()
        self.head = model.get_output_embeddings()
        self.device = next(model.parameters()).device
        self.divided = divided and is_divisible(self.decoder)
        self.first = first if self.divided else 0
        self.prefix = list(prefix) if self.divided else []
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0
        self._lower_prefix: tuple[Tensor, list[tuple[Tensor, Tensor]]] | None = None
        self.keep_upper_prefix = False
        """If true, the upper layers' keys and values of the prefix are kept from batch to batch; allowed only without
        gradients, and while no weight changes (`forget_upper_prefix` says when one does)."""
        self._upper_prefix: list[tuple[Tensor, Tensor]] | None = None

    def forget_upper_prefix(self) -> None:
        """Drops the upper layers' keys and values of the prefix. Call it when the upper layers' weights have
        changed."""
        self._upper_prefix = None

    def batch(self, rows: Sequence[EncodedRow], indices: Sequence[int]) -> Batch:
        """Makes a batch of the rows, padded to a common bucket."""
        skip = len(self.prefix)
        bodies = [[*row.prompt[skip:], *row.answer[:-1]] for row in rows]
        places = [
            (number, len(row.prompt) - skip - 1 + offset, token)
            for number, row in enumerate(rows)
            for offset, token in enumerate(row.answer)
        ]
        return Batch(self._pad(bodies), *self._columns(places), tuple(indices))

    def choice_batch(
        self, prompts: Sequence[Sequence[int]], choices: Sequence[Sequence[Sequence[int]]], indices: Sequence[int]
    ) -> tuple[Batch, Tensor]:
        """Makes a batch of all answers to choose among, of all rows, for one pass: each answer sees the prompt and
        itself only. It is padded to the longest row, in bf16 to its bucket.

        Returns the batch and, for each of its answer tokens, the number of the answer within its row.

        Raises:
            RuntimeError: the model does not run divided.
        """
        if not self.divided:
            raise RuntimeError("this model does not run divided; score each answer as a row of its own")
        skip = len(self.prefix)
        bodies: list[list[int]] = []
        answer_tokens: list[tuple[int, int, int]] = []
        spans: list[tuple[int, int, int, int]] = []  # row, begin, end, length of the prompt
        answer_of: list[int] = []
        for number, (prompt, answers) in enumerate(zip(prompts, choices, strict=True)):
            body = list(prompt[skip:])
            end_of_prompt = len(body)
            for answer_number, answer in enumerate(answers):
                begin = len(body)
                body += answer[:-1]
                spans.append((number, begin, len(body), end_of_prompt))
                for offset, token in enumerate(answer):
                    answer_tokens.append((number, begin + offset - 1 if offset else end_of_prompt - 1, token))
                    answer_of.append(answer_number)
            bodies.append(body)
        tokens = self._pad(bodies, bucketed=self.model.dtype == torch.bfloat16)
        rows, length = tokens.shape
        sees = torch.ones(length, length, dtype=torch.bool).tril().repeat(rows, 1, 1)
        places = torch.arange(length).repeat(rows, 1) + skip
        for number, begin, end, end_of_prompt in spans:
            sees[number, begin:end, end_of_prompt:begin] = False
            places[number, begin:end] = torch.arange(end - begin) + end_of_prompt + skip
        row, position, target = self._columns(answer_tokens)
        batch = Batch(tokens, row, position, target, tuple(indices), places.to(self.device), sees.to(self.device))
        return batch, torch.tensor(answer_of, device=self.device)

    def logits(self, batch: Batch) -> Tensor:
        """Returns the logits where an answer token is predicted, (answer tokens, vocabulary), fp32."""
        if self.divided:
            hidden = self._upper(self._lower(batch), batch)
        else:
            hidden = self.decoder(input_ids=batch.tokens, use_cache=False).last_hidden_state
        logits: Tensor = self.head(hidden[batch.row, batch.position]).float()
        return logits

    def log_probs(self, batch: Batch) -> Tensor:
        """Returns the log-probability (fp32) of each answer token given the tokens before it; with gradients where they
        are on."""
        return -nn.functional.cross_entropy(self.logits(batch), batch.target, reduction="none")

    def log_probs_and_greedy(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the log-probability (fp32) of each answer token, and whether it is the likeliest one, which greedy
        decoding gives."""
        logits = self.logits(batch)
        return -nn.functional.cross_entropy(logits, batch.target, reduction="none"), logits.argmax(-1) == batch.target

    def check_integrity(self, rows: Sequence[EncodedRow]) -> float:
        """Returns the largest difference of a log-probability (nats) to the model run plainly, one row at a time.

        Raises:
            RuntimeError: it is more than rounding explains, so this model cannot be divided.
        """
        with torch.no_grad():
            ours = self.log_probs(self.batch(rows, [-1] * len(rows)))
            plain = []
            for row in rows:
                ids = torch.tensor([[*row.prompt, *row.answer]], device=self.device)
                logits = self.model(input_ids=ids, use_cache=False).logits[0, len(row.prompt) - 1 : -1].float()
                plain.append(torch.log_softmax(logits, -1).gather(1, ids[0, len(row.prompt) :, None])[:, 0])
            expected = torch.cat(plain)
            worst = float((ours.clamp(min=UNLIKELY) - expected.clamp(min=UNLIKELY)).abs().max())
        if not worst <= TOLERANCE:
            raise RuntimeError(f"running this model in parts changes log-probabilities by {worst:.3f}")
        return worst

    def _pad(self, bodies: Sequence[Sequence[int]], bucketed: bool = True) -> Tensor:
        length = max(len(body) for body in bodies)
        if bucketed:
            length = bucket(length)
        padded = [[*body, *([0] * (length - len(body)))] for body in bodies]
        return torch.tensor(padded, device=self.device)

    def _columns(self, places: Sequence[tuple[int, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        row, position, target = torch.tensor(places, device=self.device).unbind(1)
        return row, position, target

    def _lower(self, batch: Batch) -> Tensor:
        """Returns the input of the upper layers, (rows, length, hidden), without gradients; it is kept from the first
        time on."""
        length = batch.tokens.shape[1]
        kept = {n: self._kept.get(index) for n, index in enumerate(batch.indices)}
        missing = [n for n, hidden in kept.items() if hidden is None or hidden.shape[0] != length]
        if missing:
            with torch.no_grad():
                fresh = self.model.get_input_embeddings()(batch.tokens[missing])
                if self.first:
                    part = batch._replace(
                        tokens=batch.tokens[missing],
                        places=None if batch.places is None else batch.places[missing],
                        sees=None if batch.sees is None else batch.sees[missing],
                    )
                    fresh = self._run(0, self.first, fresh, _cache(self._lower_of_prefix()[1]), part)
            for number, hidden in zip(missing, fresh, strict=True):
                kept[number] = hidden
                self._keep(batch.indices[number], hidden)
        return torch.stack([kept[n] for n in range(len(batch.indices))])

    def _keep(self, index: int, hidden: Tensor) -> None:
        size = hidden.numel() * hidden.element_size()
        if index >= 0 and self.first and self._kept_bytes + size <= KEEP_BYTES:
            old = self._kept.get(index)
            self._kept_bytes += size - (old.numel() * old.element_size() if old is not None else 0)
            self._kept[index] = hidden.clone()

    def _lower_of_prefix(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Returns the hidden states of the prefix after the frozen layers, and those layers' keys and values; computed
        once."""
        if self._lower_prefix is None:
            with torch.no_grad():
                ids = torch.tensor([self.prefix], dtype=torch.long, device=self.device)
                hidden = self.model.get_input_embeddings()(ids)
                cache = _cache([])
                if self.prefix and self.first:
                    hidden = self._run(0, self.first, hidden, cache, None)
                self._lower_prefix = hidden, [(layer.keys, layer.values) for layer in cache.layers]
        return self._lower_prefix

    def _upper(self, hidden: Tensor, batch: Batch) -> Tensor:
        if self._upper_prefix is not None:
            return self._run(self.first, None, hidden, _cache(self._upper_prefix), batch)
        cache = _cache([])
        if self.prefix:
            self._run(self.first, None, self._lower_of_prefix()[0], cache, None)
            if self.keep_upper_prefix:
                self._upper_prefix = [(layer.keys, layer.values) for layer in cache.layers]
        return self._run(self.first, None, hidden, cache, batch)

    def _run(self, begin: int, end: int | None, hidden: Tensor, cache: Any, batch: Batch | None) -> Tensor:
        """Runs layers `begin` to `end` - 1 on `hidden`, after the content of `cache` (of one row), and the final norm
        if they reach the top.

        The decoder is made to consist of these layers for the time of the call.
        """
        decoder = self.decoder
        layers, norm, count = decoder.layers, decoder.norm, decoder.config.num_hidden_layers
        if len(hidden) > 1 and cache.get_seq_length():
            cache.batch_repeat_interleave(len(hidden))
        options = self._attention(hidden, batch) if batch is not None else {}
        part = layers[begin:end]
        try:
            decoder.layers, decoder.config.num_hidden_layers = part, len(part)
            decoder.norm = norm if end is None else nn.Identity()
            for number, layer in enumerate(part):
                layer.self_attn.layer_idx = number
            result: Tensor = decoder(
                inputs_embeds=hidden, past_key_values=cache, use_cache=True, **options
            ).last_hidden_state
            return result
        finally:
            decoder.layers, decoder.norm, decoder.config.num_hidden_layers = layers, norm, count
            for number, layer in enumerate(layers):
                layer.self_attn.layer_idx = number

    def _attention(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Returns mask (additive, 4-dimensional: transformers passes it on) and positions, where they are not plain."""
        if batch.sees is None or batch.places is None:
            return {}
        rows, length, _ = batch.sees.shape
        prefix = torch.ones(rows, length, len(self.prefix), dtype=torch.bool, device=self.device)
        sees = torch.cat([prefix, batch.sees], dim=2)
        mask = torch.zeros(sees.shape, dtype=hidden.dtype, device=self.device)
        mask.masked_fill_(~sees, torch.finfo(hidden.dtype).min)
        return {"attention_mask": mask[:, None], "position_ids": batch.places}


def bucket(length: int) -> int:
    """Returns the padded length of a row."""
    step = next(step for step, limit in BUCKETS if length <= limit)
    return -(-length // step) * step


def is_divisible(decoder: Any) -> bool:
    """Returns whether the decoder is a plain list of full-attention layers followed by a norm."""
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    layers = getattr(decoder, "layers", None)
    return (
        isinstance(layers, nn.ModuleList)
        and hasattr(decoder, "norm")
        and all(hasattr(getattr(layer, "self_attn", None), "layer_idx") for layer in layers)
        and kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
    )


def _cache(layers: Sequence[tuple[Tensor, Tensor]]) -> Any:
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache
