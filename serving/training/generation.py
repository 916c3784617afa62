"""Greedy answers of a model to many prompts at once, and the base model's own, which are made once and kept.

The effect of a learnware off its task is measured against the base model's answers there, and training keeps the base
model's behaviour by its answers: both take them from here, so that they use the same ones.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from serving.training.loops import is_looping
from serving.training.rows import common_prefix

MAX_TOKENS = 40
"""Largest length of an answer in tokens: enough to see a phrase repeated or a label in the place of a sentence, and
whether a topic is kept."""
ROWS_A_BATCH = 128
"""Number of rows that are decoded together: a step reads all weights once, whatever the rows. With SmolLM2-135M on one
core in bf16 a step of 48 rows takes as long as six of 1. Their keys and values are 0.4 GB there, and 2 GB of an 8B
model."""
ROWS_A_PASS = 16
"""Number of rows that are read together: more have lengths more different, and padding costs as much as text."""
SHRINK_AT = 0.75
"""Share of unfinished rows below which the finished ones leave the batch; leaving copies the cache."""
LOGIT_ROWS = 256
"""Number of rows of logits that are held at once: 50 MB for a vocabulary of 49,152 in fp32."""
FOLDER = "base-answers"
"""Name of the folder of kept answers in the cache folder."""

_SAMPLES, _SAMPLE_BYTES = 16, 64 << 10


class GreedyAnswer(NamedTuple):
    """A greedy answer: its tokens, the one that ends the turn included where it came before the limit, and their summed
    log-likelihood (nats), as far as this run computed it: tokens that agree with a draft count too."""

    tokens: tuple[int, ...]
    ended: bool
    log_likelihood: float

    def text(self, tokenizer: Any) -> str:
        """Returns the answer's text, without special tokens."""
        return str(tokenizer.decode(self.tokens, skip_special_tokens=True))


class Verified(NamedTuple):
    """A model's own greedy answer, and the summed log-likelihood (nats) that it gives the draft."""

    answer: GreedyAnswer
    draft_log_likelihood: float


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
) -> list[GreedyAnswer]:
    """Returns the likeliest continuation of each prompt, in the prompts' order. Prompts are token ids as
    `serving.training.rows.encode_prompt` makes them; the model's own generation settings (temperature, penalties) are
    not used. `progress` is called with the number of prompts done."""
    verified = verified_answers(model, tokenizer, prompts, [()] * len(prompts), max_tokens, progress)
    return [one.answer for one in verified]


def verified_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]],
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
    *,
    stop_loops: bool = False,
) -> list[Verified]:
    """Returns greedy answers with another model's answers as drafts (speculative decoding, Leviathan et al. 2023): one
    pass over prompt and draft says how likely the model finds the draft, and where it would say something else; it is
    decoded token by token only from there on. A draft has at most `max_tokens` tokens.

    Prompts of about one length go together, and the common prefix of a batch passes through the model once.
    `stop_loops` ends an answer that has begun to repeat itself (`is_looping`), since it says nothing new.
    """
    ends = end_tokens(model, tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(drafts[i]))
    done: dict[int, Verified] = {}
    for begin in range(0, len(order), ROWS_A_BATCH):
        part = order[begin : begin + ROWS_A_BATCH]
        batch = _Batch(model, [prompts[i] for i in part], [drafts[i] for i in part], ends)
        batch.verify()
        batch.decode(max_tokens, stop_loops)
        done.update(zip(part, batch.results(), strict=True))
        progress(len(done))
    return [done[i] for i in range(len(prompts))]


def base_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    weights: str,
    cache: Path,
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
) -> list[GreedyAnswer]:
    """Returns the `greedy_answers` of a base model, made once and kept in the folder `cache`, a batch at a time, so
    that an interruption loses one batch.

    `model` must answer as the base does (adapters disabled, or not there); `weights` is its `weights_fingerprint`.
    Answers are kept by the fingerprint, the limit and the prompt's tokens, so other prompts, or another chat template,
    never take each other's; runs that share prompts share answers.
    """
    path = cache / FOLDER / f"{weights[:16]}-{max_tokens}.jsonl"
    keys = [_key(prompt) for prompt in prompts]
    known = _read(path)
    waiting = sorted({key: i for i, key in enumerate(keys) if key not in known}.values(), key=lambda i: len(prompts[i]))
    progress(len(prompts) - len(waiting))
    for begin in range(0, len(waiting), ROWS_A_BATCH):
        part = waiting[begin : begin + ROWS_A_BATCH]
        made = greedy_answers(model, tokenizer, [prompts[i] for i in part], max_tokens)
        fresh = {keys[i]: answer for i, answer in zip(part, made, strict=True)}
        _append(path, fresh)
        known |= fresh
        progress(len(prompts) - len(waiting) + begin + len(part))
    # Another process may have answered the same prompts meanwhile: the first line of a prompt is the one that all take.
    known |= _read(path) if waiting else {}
    return [known[key] for key in keys]


def weights_fingerprint(base: Path) -> str:
    """Names a model by its content, wherever its folder lies: SHA-256 over its configuration, its tokenizer, and of
    every file of weights the size and samples spread over it (all of an 8B model would take half a minute).

    Raises:
        OSError: the folder cannot be read.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (base / name).is_file():
            digest.update(name.encode() + (base / name).read_bytes())
    for path in sorted(base.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLES):
                file.seek(max(0, (size - _SAMPLE_BYTES) * number // (_SAMPLES - 1)))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a turn: the tokenizer's, and those that the model's generation settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return frozenset(int(token) for token in (tokenizer.eos_token_id, *listed) if token is not None)


class _Batch:
    """Some prompts and drafts, in the order of their lengths, on their way through a model. Rows are padded on the
    right; a row's own mask and positions say what belongs to it, so that a draft's rejected end stays in the cache
    unseen."""

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]], ends: frozenset[int]
    ) -> None:
        self.model, self.ends = model, ends
        self.device = next(model.parameters()).device
        self.prompts, self.drafts = [list(prompt) for prompt in prompts], [list(draft) for draft in drafts]
        self.spoken: list[list[int]] = [[] for _ in prompts]
        self.sums = [0.0] * len(prompts)
        self.draft_sums = [0.0] * len(prompts)
        self.cache = _cache()
        self.seen = torch.empty(0)
        """(rows, length), bool: the entries of the cache that a row may look at."""

    @torch.no_grad()
    def verify(self) -> None:
        """Runs prompts and drafts; leaves in `spoken` the part of each draft that the model agrees with, and the token
        that it says next."""
        skip = common_prefix(self.prompts)
        prefix = _cache()
        if skip:
            self._hidden(torch.tensor([self.prompts[0][:skip]], device=self.device), prefix, None, None)
        parts = []
        for begin in range(0, len(self.prompts), ROWS_A_PASS):
            rows = range(begin, min(begin + ROWS_A_PASS, len(self.prompts)))
            cache = _cache([(layer.keys, layer.values) for layer in prefix.layers])
            if skip and len(rows) > 1:
                cache.batch_repeat_interleave(len(rows))
            parts.append((cache, self._verify_part(rows, skip, cache)))
        self._merge(parts)

    def _verify_part(self, numbers: range, skip: int, cache: Any) -> Tensor:
        """Does `verify` for some rows. Returns which entries of `cache` each may look at from now on."""
        pairs = [(self.prompts[row], self.drafts[row]) for row in numbers]
        bodies = [[*prompt[skip:], *draft] for prompt, draft in pairs]
        longest = max(map(len, bodies))
        ids = torch.tensor([[*body, *([0] * (longest - len(body)))] for body in bodies], device=self.device)
        lengths = torch.tensor([skip + len(body) for body in bodies], device=self.device)
        seen = torch.arange(skip + longest, device=self.device) < lengths[:, None]
        hidden = self._hidden(ids, cache, seen, None)
        places = [
            (n, len(prompt) - skip - 1 + offset)
            for n, (prompt, draft) in enumerate(pairs)
            for offset in range(len(draft) + 1)
        ]
        rows, columns = torch.tensor(places, device=self.device).unbind(1)
        targets = [token for _, draft in pairs for token in (*draft, 0)]
        likeliest, best, wanted = self._heads(hidden[rows, columns], torch.tensor(targets, device=self.device))
        begin = 0
        for n, (row, (prompt, draft)) in enumerate(zip(numbers, pairs, strict=True)):
            said = likeliest[begin : begin + len(draft) + 1]
            self.draft_sums[row] = sum(wanted[begin : begin + len(draft)])
            agreed = next((i for i, token in enumerate(draft) if said[i] != token), len(draft))
            whole = agreed == len(draft) and bool(draft) and draft[-1] in self.ends
            self.spoken[row] = draft if whole else [*draft[:agreed], said[agreed]]
            self.sums[row] = sum(best[begin : begin + len(self.spoken[row])])
            seen[n, len(prompt) + agreed :] = False
            begin += len(draft) + 1
        return seen

    def _merge(self, parts: Sequence[tuple[Any, Tensor]]) -> None:
        """Merges the parts' caches into one, each padded on the right to the longest."""
        length = max(seen.shape[1] for _, seen in parts)

        def padded(tensors: Sequence[Tensor], dim: int) -> Tensor:
            grown = []
            for tensor in tensors:
                shape = list(tensor.shape)
                shape[dim] = length - shape[dim]
                grown.append(torch.cat([tensor, tensor.new_zeros(shape)], dim=dim))
            return torch.cat(grown)

        layers = [[cache.layers[n] for cache, _ in parts] for n in range(len(parts[0][0].layers))]
        self.cache = _cache(
            [(padded([one.keys for one in layer], -2), padded([one.values for one in layer], -2)) for layer in layers]
        )
        self.seen = padded([seen for _, seen in parts], -1)

    @torch.no_grad()
    def decode(self, max_tokens: int, stop_loops: bool) -> None:
        """Decodes a token at a time until every row has ended or has `max_tokens`. Finished rows leave the batch."""
        alive = list(range(len(self.prompts)))
        while True:
            self.spoken = [tokens[:max_tokens] for tokens in self.spoken]
            going = [n for n, row in enumerate(alive) if not self._is_finished(row, max_tokens, stop_loops)]
            if not going:
                return
            if len(going) < SHRINK_AT * len(alive):
                kept = torch.tensor(going, device=self.device)
                self.cache.batch_select_indices(kept)
                self.seen = self.seen[kept]
                alive = [alive[n] for n in going]
                going = list(range(len(alive)))
            ids = torch.tensor([[self.spoken[row][-1]] for row in alive], device=self.device)
            places = self.seen.sum(1, keepdim=True)
            self.seen = torch.cat([self.seen, self.seen.new_ones(len(alive), 1)], dim=1)
            hidden = self._hidden(ids, self.cache, self.seen, places)[:, -1]
            likeliest, best, _ = self._heads(hidden, torch.zeros(len(alive), dtype=torch.long, device=self.device))
            for n in going:
                self.spoken[alive[n]].append(likeliest[n])
                self.sums[alive[n]] += best[n]

    def results(self) -> list[Verified]:
        """Returns each row's answer and the log-likelihood of its draft."""
        return [
            Verified(GreedyAnswer(tuple(tokens), bool(tokens) and tokens[-1] in self.ends, own), draft)
            for tokens, own, draft in zip(self.spoken, self.sums, self.draft_sums, strict=True)
        ]

    def _is_finished(self, row: int, max_tokens: int, stop_loops: bool) -> bool:
        tokens = self.spoken[row]
        return tokens[-1] in self.ends or len(tokens) >= max_tokens or (stop_loops and is_looping(tokens))

    def _hidden(self, ids: Tensor, cache: Any, seen: Tensor | None, places: Tensor | None) -> Tensor:
        """Returns the hidden states after the last norm, (rows, length, hidden); `cache` grows by `ids`."""
        if places is None:
            places = torch.arange(ids.shape[1], device=self.device)[None] + cache.get_seq_length()
        result: Tensor = self.model.get_decoder()(
            input_ids=ids,
            attention_mask=None if seen is None else seen.long(),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return result

    def _heads(self, hidden: Tensor, targets: Tensor) -> tuple[list[int], list[float], list[float]]:
        """Returns for each row of `hidden` the likeliest token, its log-probability (fp32), and that of the target."""
        head = self.model.get_output_embeddings()
        likeliest: list[int] = []
        best: list[float] = []
        wanted: list[float] = []
        for part, aims in zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True):
            logits = head(part).float()
            total = logits.logsumexp(-1)
            highest = logits.max(-1)
            likeliest += highest.indices.tolist()
            best += (highest.values - total).tolist()
            wanted += (logits.gather(1, aims[:, None])[:, 0] - total).tolist()
        return likeliest, best, wanted


def _cache(layers: Sequence[tuple[Tensor, Tensor]] = ()) -> Any:
    """Makes a cache of keys and values, each (rows, heads, length, width), by layer."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def _key(prompt: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, GreedyAnswer]:
    """Reads a file of answers. Of a prompt's lines the first counts, and incomplete lines are skipped."""
    known: dict[str, GreedyAnswer] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return known
    for line in lines:
        try:
            item = json.loads(line)
            known.setdefault(item["prompt"], GreedyAnswer(tuple(item["tokens"]), item["ended"], item["log_likelihood"]))
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _append(path: Path, answers: dict[str, GreedyAnswer]) -> None:
    """Appends lines to the file under a lock, so that no other process does at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": key, **answer._asdict()}) for key, answer in answers.items()]
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # A writer that was killed may have left half a line: it must not swallow the first of ours.
        file.write(("\n" + "\n".join(lines) + "\n").encode())
