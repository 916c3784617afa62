"""Greedy answers of a model to many prompts at once, and the base model's own, which are made once and kept.

What a learnware does off its task is measured against what the base model says there, and training keeps the base by
what the base says: both take the answers from here, so that they speak of the same ones.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_TOKENS = 40
"""Of an answer: enough to see a phrase repeated or a label in the place of a sentence, and whether a topic is kept."""
ROWS_A_BATCH = 48
"""Every step reads all weights once whatever the rows, so large batches are cheap: with SmolLM2-135M on one core in bf16
a step of 48 rows takes about as long as two of 8."""
SHRINK_AT = 0.75
"""Finished rows leave the batch when the share of those still speaking falls below this: leaving copies the cache."""
FOLDER = "base-answers"

_SAMPLES, _SAMPLE_BYTES = 16, 64 << 10


class GreedyAnswer(NamedTuple):
    """What greedy decoding gives: the tokens, the one that ends the turn included where it came before the limit."""

    tokens: tuple[int, ...]
    ended: bool

    def text(self, tokenizer: Any) -> str:
        """Without the tokens that are no text."""
        return str(tokenizer.decode(self.tokens, skip_special_tokens=True))


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
    rows_a_batch: int = ROWS_A_BATCH,
) -> list[GreedyAnswer]:
    """The likeliest continuation of each prompt (token ids, as `serving.training.rows.encode_prompt` makes them), in
    the prompts' order. Nothing of the model's own generation settings (temperature, penalties) has a part in it.

    Prompts of about one length go together, padded on the left; keys and values are kept from step to step. `progress`
    is told how many prompts are done.
    """
    ends = end_tokens(model, tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers: dict[int, GreedyAnswer] = {}
    for begin in range(0, len(order), rows_a_batch):
        part = order[begin : begin + rows_a_batch]
        spoken = _decode(model, [prompts[i] for i in part], max_tokens, ends)
        answers.update(
            (i, GreedyAnswer(tuple(tokens), bool(tokens) and tokens[-1] in ends))
            for i, tokens in zip(part, spoken, strict=True)
        )
        progress(len(answers))
    return [answers[i] for i in range(len(prompts))]


def base_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    weights: str,
    cache: Path,
    max_tokens: int = MAX_TOKENS,
    progress: Callable[[int], object] = lambda _: None,
) -> list[GreedyAnswer]:
    """`greedy_answers` of a base model, made once and kept in the folder `cache`, a batch at a time: a cut loses one.

    `model` must answer as the base does (adapters disabled, or not there); `weights` is its `weights_fingerprint`.
    Answers are kept by it, by the limit and by the prompt's tokens, so other prompts, or another chat template, never
    take each other's; runs that share prompts share answers.
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
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
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


@torch.no_grad()
def _decode(model: Any, prompts: Sequence[Sequence[int]], max_tokens: int, ends: frozenset[int]) -> list[list[int]]:
    """One batch: what each prompt is continued with, its end token included."""
    from transformers import DynamicCache

    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)], device=device)
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding], device=device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache: Any = DynamicCache()
    spoken: list[list[int]] = [[] for _ in prompts]
    alive = list(range(len(prompts)))
    speaking: Tensor | None = None  # rows of the batch that have not ended; None: all
    for _ in range(max_tokens):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        tokens = logits.argmax(-1)
        for row, token in zip(alive, tokens.tolist(), strict=True):
            if not (spoken[row] and spoken[row][-1] in ends):
                spoken[row].append(token)
        speaking = torch.tensor([spoken[row][-1] not in ends for row in alive], device=device)
        count = int(speaking.sum())
        if not count:
            break
        if count < SHRINK_AT * len(alive):
            kept = speaking.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            mask, places, tokens = mask[kept], places[kept], tokens[kept]
            alive = [alive[i] for i in kept.tolist()]
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        places = places[:, -1:] + 1
    return spoken


def _key(prompt: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, GreedyAnswer]:
    """What a file of answers holds; of a prompt's lines the first counts, and a line that was cut is no line."""
    known: dict[str, GreedyAnswer] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return known
    for line in lines:
        try:
            item = json.loads(line)
            known.setdefault(item["prompt"], GreedyAnswer(tuple(item["tokens"]), item["ended"]))
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _append(path: Path, answers: dict[str, GreedyAnswer]) -> None:
    """Adds lines at the file's end while no other process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": key, **answer._asdict()}) for key, answer in answers.items()]
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # A writer that was killed may have left half a line: it must not swallow the first of ours.
        file.write(("\n" + "\n".join(lines) + "\n").encode())
