"""Trains an adapter of a base model on rows and writes it as a PEFT folder."""

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving.processor import multiplies_bfloat16
from serving.training.generation import base_answers, weights_fingerprint
from serving.training.keep import Keeper, keep_prompts, prompts_hash
from serving.training.rows import (
    EncodedRow,
    Row,
    common_prefix,
    encode_prompt,
    encode_rows,
    hold_out,
    rows_hash,
    shuffle_answers,
)
from serving.training.settings import TrainingSettings
from serving.training.split_model import Stack
from serving.training.trainer import Outcome, Trainer
from specs.adapter import adapter_hash, check_adapter
from specs.errors import InvalidInput, InvalidLearnware
from specs.files import write_atomically

CHECKPOINT = "checkpoint.pt"
"""File of an interrupted run's state in the adapter's folder."""
WEIGHTS = "adapter_model.safetensors"
"""File of the adapter's weights in a PEFT folder."""
CONFIG = "adapter_config.json"
"""File of the adapter's configuration in a PEFT folder."""
RECORD = "training.json"
"""File of the run's record in the adapter's folder."""
_NOT_IDENTITY = {"max_seconds", "checkpoint_seconds", "device"}
"""Settings that may change between a run and its resumption without making it another run."""


def train_adapter(
    rows: Sequence[Row],
    base: Path,
    base_id: str,
    out: Path,
    settings: TrainingSettings,
    progress: Callable[[int, int, str], None],
    say: Callable[[str], None],
    cache: Path | None = None,
    start: Path | None = None,
) -> Path:
    """Trains an adapter of the base model in the folder `base` and writes it to `out`; continues a run of the same
    settings and rows that was interrupted.

    The folder then holds adapter_config.json (with `base_model_name_or_path` = `base_id`), adapter_model.safetensors
    (bf16) and training.json. A folder that is complete for the same run is left as it is.

    Args:
        cache: folder in which the base model's answers to keep prompts are kept from run to run; None keeps them in
            `out`.
        start: folder of an adapter of the same shape, whose weights are the first ones.

    Raises:
        InvalidInput: a target module that the base does not have, too few rows, or a `start` of another shape, or one
            that could not be served over this base.
    """
    if start is not None:
        _check_start(start)
    if len(rows) < 4:
        raise InvalidInput(
            f"{len(rows)} rows are too few to train on; at least 4 are needed, and some hundreds make sense"
        )
    given = rows_hash(rows)
    prompts = keep_prompts(rows, settings.keep_rows, settings.seed)
    origin = adapter_hash(start) if start is not None else None
    fingerprint = _fingerprint(given, base_id, settings, prompts, origin)
    record_path = out / RECORD
    if _is_complete(out, fingerprint, settings):
        say(f"{out} is complete already")
        return out
    used = shuffle_answers(rows, settings.seed) if settings.shuffle_answers else list(rows)
    out.mkdir(parents=True, exist_ok=True)
    say(f"loading the base model from {base}")
    model, tokenizer = load_base(base, settings.device, computing_type(settings.device))
    depth = model.config.get_text_config().num_hidden_layers
    encoded = encode_rows(used, tokenizer, settings.max_length)
    prefix = encoded[0].prompt[: common_prefix([row.prompt for row in encoded])]
    rehearsed = _answered(model, tokenizer, prompts, base, cache or out, settings, say)
    train, held = hold_out(used, settings.held_out_share, settings.seed)
    first = int(depth * settings.first_layer_share)
    adapted = add_adapter(model, settings, first, depth)
    if start is not None:
        _start_from(adapted, start)
    stack = divide(model, first, prefix, [encoded[i] for i in held[:4]], say)
    keeper = _keeper(stack, rehearsed, settings, adapted) if rehearsed else None
    parameters = [parameter for _, parameter in adapted.named_parameters() if parameter.requires_grad]
    trainer = Trainer(
        stack, parameters, encoded, train, held, settings, out / CHECKPOINT, fingerprint, progress, keeper
    )
    outcome = trainer.run()
    _export(adapted, outcome.weights, parameters, base_id, out)
    record = _record(outcome, settings, base_id, given, fingerprint, len(train), len(held), len(prefix), first)
    record |= {"keep_prompts": len(prompts), "keep_prompts_sha256": prompts_hash(prompts), "started_from": origin}
    write_atomically(record_path, (json.dumps(record, indent=1) + "\n").encode())
    if outcome.stopped_by != "time":  # else it may go on with more minutes
        (out / CHECKPOINT).unlink(missing_ok=True)
    return out


def load_base(base: Path, device: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Loads the (frozen) model and the tokenizer of a local folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    # On CPU, the backward pass of torch 2.13's fused attention takes a quarter of a step at these short lengths.
    attention = "eager" if device == "cpu" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        str(base), dtype=dtype, local_files_only=True, attn_implementation=attention
    ).to(device)
    model.requires_grad_(False)
    return model.eval(), tokenizer


def computing_type(device: str) -> torch.dtype:
    """Returns bf16 where the device has instructions for it, else fp32: without them torch is eight times slower in
    bf16."""
    return torch.bfloat16 if device != "cpu" or multiplies_bfloat16() else torch.float32


def add_adapter(model: Any, settings: TrainingSettings, first: int, depth: int) -> Any:
    """Wraps `model` in place with a fresh LoRA on layers `first` to `depth` - 1, in the base's own type, seeded.

    Raises:
        InvalidInput: a target module does not exist in the model.
    """
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(settings.target_modules),
        layers_to_transform=list(range(first, depth)) if first else None,
        task_type="CAUSAL_LM",
    )
    try:
        with older_names():
            return get_peft_model(model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        names = sorted(
            {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
        )
        raise InvalidInput(
            f"target modules {list(settings.target_modules)} do not fit; this base has {names}"
        ) from error


@contextmanager
def older_names() -> Iterator[None]:
    """Silences FutureWarning: peft 0.21 asks transformers 5.23 for a property by its older name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def divide(model: Any, first: int, prefix: Sequence[int], sample: Sequence[Any], say: Callable[[str], None]) -> Stack:
    """Returns the fastest way to run this model that gives the same results as running it plainly."""
    stack = Stack(model, first, prefix)
    try:
        stack.check_integrity(sample)
    except RuntimeError as error:
        say(f"{error}: running it whole")
        stack = Stack(model, first, prefix, divided=False)
    return stack


def _is_complete(out: Path, fingerprint: str, settings: TrainingSettings) -> bool:
    """Returns whether the folder holds this run's result; a run that was stopped by its time limit is not complete when
    the limit was raised."""
    if not all((out / name).exists() for name in (RECORD, WEIGHTS, CONFIG)):
        return False
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    more_time = record["stopped_by"] == "time" and settings.max_seconds > record["seconds"]
    return bool(record["fingerprint"] == fingerprint) and not (more_time and (out / CHECKPOINT).exists())


def _fingerprint(rows: str, base_id: str, settings: TrainingSettings, keep: Sequence[str], origin: str | None) -> str:
    identity = [rows, base_id, settings.model_dump(exclude=_NOT_IDENTITY), prompts_hash(keep), origin]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _answered(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    base: Path,
    cache: Path,
    settings: TrainingSettings,
    say: Callable[[str], None],
) -> list[EncodedRow]:
    """Pairs keep prompts with the base model's answers to them; `model` must not be adapted yet."""
    if not prompts:
        return []
    ids = [encode_prompt(prompt, tokenizer, settings.max_length) for prompt in prompts]

    def tell(done: int) -> None:
        say(f"the base model's answers to prompts off the task: {done} of {len(ids)}")

    answers = base_answers(model, tokenizer, ids, weights_fingerprint(base), cache, progress=tell)
    return [EncodedRow(prompt, list(answer.tokens)) for prompt, answer in zip(ids, answers, strict=True)]


def _keeper(stack: Stack, rows: Sequence[EncodedRow], settings: TrainingSettings, adapted: Any) -> Keeper:
    """Makes a keeper over the same layers as the task's rows, with a shared prefix of its own."""
    prefix = rows[0].prompt[: common_prefix([row.prompt for row in rows])]
    own = Stack(stack.model, stack.first, prefix, stack.divided)
    return Keeper(own, rows, settings.keep_batch, settings.seed, adapted.disable_adapter)


def _check_start(folder: Path) -> None:
    """Checks that the adapter in `folder` is one of the base as it is: weights that belong to a base which PEFT changed
    for them (PiSSA, OLoRA) would begin somewhere else over the unchanged one.

    Raises:
        InvalidInput: it could not be served.
    """
    try:
        check_adapter(folder)
    except InvalidLearnware as error:
        raise InvalidInput(f"the adapter in {folder} cannot be begun with: {error}") from None


def _scale(config: Mapping[str, Any]) -> tuple[float, object]:
    """Returns the factor of an adapter's product of B and A, and the layers that have another one."""
    rank = config["r"]
    divisor = math.sqrt(rank) if config.get("use_rslora") else rank
    return config["lora_alpha"] / divisor, config.get("alpha_pattern") or None


def _start_from(adapted: Any, folder: Path) -> None:
    """Replaces the fresh weights by those of the adapter in `folder`.

    Raises:
        InvalidInput: that adapter has other layers, ranks or scale.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / WEIGHTS)
    own = {name: tensor.shape for name, tensor in get_peft_model_state_dict(adapted).items()}
    given = {name: tensor.shape for name, tensor in weights.items()}
    scale = _scale(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    if own != given or scale != _scale(adapted.peft_config["default"].to_dict()):
        raise InvalidInput(
            f"the adapter in {folder} has other layers, ranks or scale than these settings make; give its own "
            "--rank, --alpha, --target-modules and --first-layer-share"
        )
    set_peft_model_state_dict(adapted, weights)


def _export(adapted: Any, weights: Sequence[Tensor], parameters: Sequence[Tensor], base_id: str, out: Path) -> None:
    """Writes the weights first and the configuration second, each atomically."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
    state = {
        name: tensor.to(torch.bfloat16).contiguous().cpu()
        for name, tensor in get_peft_model_state_dict(adapted).items()
    }
    write_atomically(out / WEIGHTS, save(state, metadata={"format": "pt"}))
    config = adapted.peft_config["default"]
    config.inference_mode = True
    config.base_model_name_or_path = base_id
    temporary = out / ".config"
    config.save_pretrained(str(temporary))
    written = json.loads((temporary / CONFIG).read_text())
    shutil.rmtree(temporary)
    written["target_modules"] = sorted(written["target_modules"])
    write_atomically(out / CONFIG, (json.dumps(written, indent=1, sort_keys=True) + "\n").encode())


def _record(
    outcome: Outcome,
    settings: TrainingSettings,
    base_id: str,
    rows: str,
    fingerprint: str,
    train: int,
    held: int,
    prefix: int,
    first: int,
) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "base_model": base_id,
        "settings": settings.model_dump(),
        "first_layer": first,
        "rows_sha256": rows,
        "fingerprint": fingerprint,
        "train_rows": train,
        "held_out_rows": held,
        "shared_prefix_tokens": prefix,
        "steps": outcome.steps,
        "best": outcome.best._asdict(),
        "history": [[e.step, *(round(value, 4) for value in e[1:])] for e in outcome.history],
        "history_columns": ["step", "train_loss", "held_out_loss", "held_out_exact", "drift"],
        "seconds": outcome.seconds,
        "stopped_by": outcome.stopped_by,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
