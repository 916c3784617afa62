"""Trains parameter vectors (PAVE, `specs.pave`) from texts.

The proxy is a causal language model that is trained on the texts themselves, prompts without answers, so that a task's
owner needs no answers. Training is a fixed number of small batches, so its cost depends on the basis and not on how
many rows there are.

A is drawn with numpy, layer by layer from a name and the seed, so that it is the same with every version of torch and
on every machine. On CPU the proxy runs in float32: without bfloat16 instructions, bfloat16 is many times slower there.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from serving.training.adapter import add_adapter, load_base
from serving.training.settings import TrainingSettings
from specs.errors import InvalidInput
from specs.pave import Basis, ParameterVector

Progress = Callable[[int, int, str], None]
"""Called with the steps taken, the number of steps, and a text with the loss."""

WARMUP_SHARE = 0.03
"""Share of the steps over which the learning rate rises."""
WEIGHT_DECAY = 0.5
GRADIENT_NORM = 1.0
"""Largest norm of the gradients. Warm-up, weight decay and this value are those of the `learnware` package."""


def weights_hash(folder: Path) -> str:
    """Returns SHA-256 over a model's tensors (names, shapes and bytes), however they are divided into files.

    Raises:
        InvalidInput: the folder has no safetensors weights.
    """
    digest = hashlib.sha256()
    places = sorted((name, path) for path in folder.glob("*.safetensors") for name in _names(path))
    if not places:
        raise InvalidInput(f"{folder} has no safetensors weights")
    for name, path in places:
        with safe_open(path, "pt") as tensors:
            tensor = tensors.get_tensor(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _names(path: Path) -> list[str]:
    with safe_open(path, "pt") as tensors:
        return list(tensors.keys())


class Proxy:
    """The proxy model of a basis, ready to be trained on one set of texts after another."""

    def __init__(self, folder: Path, basis: Basis, device: str = "cpu") -> None:
        """Loads the model in `folder` and puts the basis' frozen A on its layers.

        Raises:
            InvalidInput: the model is not the basis' own, or has fewer layers.
        """
        found = weights_hash(folder)
        if found != basis.sha256:
            raise InvalidInput(
                f"the proxy in {folder} has other weights ({found[:12]}…) than basis {basis.proxy!r} "
                f"({basis.sha256[:12]}…)"
            )
        self.basis, self._device = basis, device
        model, self._tokenizer = load_base(folder, device, torch.float32 if device == "cpu" else torch.bfloat16)
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        depth = model.config.get_text_config().num_hidden_layers
        if basis.layers > depth:
            raise InvalidInput(f"the basis takes {basis.layers} layers of {basis.proxy!r}, which has {depth}")
        self._decoder.layers = self._decoder.layers[: basis.layers]
        self._decoder.config.num_hidden_layers = basis.layers
        adapted = add_adapter(model, _as_settings(basis), basis.first, basis.layers)
        self._parameters: dict[str, torch.nn.Parameter] = {}
        for name, parameter in adapted.named_parameters():
            place = _place(name)
            if ".lora_A." in name:
                parameter.requires_grad_(requires_grad=False)
                drawn = torch.from_numpy(frozen_a(basis, place, tuple(parameter.shape)))
                parameter.data.copy_(drawn)
            elif ".lora_B." in name:
                self._parameters[place] = parameter
        model.eval()

    def vector(self, texts: Sequence[str], progress: Progress = lambda *_: None) -> ParameterVector:
        """Returns the parameter vector of these texts; on one machine the same texts always give the same one.

        Raises:
            InvalidInput: there is no text with at least two tokens.
        """
        basis, generator = self.basis, np.random.default_rng(self.basis.seed)
        tokens = [ids for ids in map(self._tokens, texts) if len(ids) > 1]
        if not tokens:
            raise InvalidInput("a parameter vector needs at least one text with some words")
        for parameter in self._parameters.values():
            parameter.data.zero_()
        masters = [torch.zeros_like(one, dtype=torch.float32) for one in self._parameters.values()]
        optimizer = torch.optim.AdamW(masters, lr=basis.learning_rate, weight_decay=WEIGHT_DECAY)
        for step, rows in enumerate(batches(len(tokens), basis, generator)):
            loss = self._loss([_window(tokens[row], basis.window, generator) for row in rows], generator)
            loss.backward()
            for master, parameter in zip(masters, self._parameters.values(), strict=True):
                master.grad = torch.zeros_like(master) if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
            torch.nn.utils.clip_grad_norm_(masters, GRADIENT_NORM)
            optimizer.param_groups[0]["lr"] = basis.learning_rate * _schedule(step, basis.steps)
            optimizer.step()
            for master, parameter in zip(masters, self._parameters.values(), strict=True):
                parameter.data.copy_(master)
            progress(step + 1, basis.steps, f"loss {float(loss.detach()):.3f}")
        parts = {name: master.cpu().numpy() for name, master in zip(self._parameters, masters, strict=True)}
        return ParameterVector(basis, len(texts), _scaled(parts))

    def _tokens(self, text: str) -> list[int]:
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        first = self._tokenizer.bos_token_id
        return ids if first is None else [first, *ids]

    def _loss(self, windows: Sequence[Sequence[int]], generator: np.random.Generator) -> torch.Tensor:
        """Returns the mean negative log-likelihood of some random tokens of each window; padding stands behind them,
        unseen."""
        length = max(map(len, windows))
        ids = torch.tensor([[*window, *([0] * (length - len(window)))] for window in windows], device=self._device)
        places = [
            (row, int(place))
            for row, window in enumerate(windows)
            for place in generator.permutation(len(window) - 1)[: self.basis.predicted]
        ]
        row, place = torch.tensor(places, device=self._device).unbind(1)
        hidden = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        return torch.nn.functional.cross_entropy(self._head(hidden[row, place]).float(), ids[row, place + 1])


def frozen_a(basis: Basis, place: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draws A of one layer: normal with variance 1 / in features, from the seed and the layer's name alone."""
    digest = hashlib.sha256(f"{basis.seed} {place}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
    return (generator.normal(size=shape) / math.sqrt(shape[-1])).astype(np.float32)


def batches(count: int, basis: Basis, generator: np.random.Generator) -> list[list[int]]:
    """Returns the rows of each step: a new random order for each pass over them, until the steps are full."""
    needed = basis.steps * basis.batch
    order = np.concatenate([generator.permutation(count) for _ in range(math.ceil(needed / count))])[:needed]
    return [list(map(int, part)) for part in np.split(order, basis.steps)]


def _window(tokens: Sequence[int], length: int, generator: np.random.Generator) -> Sequence[int]:
    """Cuts at most `length` consecutive tokens from a random place on, behind the first token, which begins every
    text."""
    start = int(generator.integers(1, max(2, len(tokens) - length + 1)))
    return [tokens[0], *tokens[start : start + length]]


def _schedule(step: int, steps: int) -> float:
    """Returns the share of the learning rate at a step: a linear warm-up, then a cosine to nothing."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _scaled(parts: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Scales the parts to a mean square of 1: only the direction counts, and float16 holds numbers of this size
    best."""
    square = sum(float((part.astype(np.float64) ** 2).sum()) for part in parts.values())
    count = sum(part.size for part in parts.values())
    return {name: (part / math.sqrt(square / count)).astype(np.float32) for name, part in parts.items()}


def _place(name: str) -> str:
    """Shortens a parameter's name: `….layers.3.self_attn.q_proj.lora_B.default.weight` → `3.q_proj`."""
    parts = name.partition(".layers.")[2].split(".")
    return f"{parts[0]}.{parts[-4]}" if len(parts) > 4 else name


def _as_settings(basis: Basis) -> TrainingSettings:
    return TrainingSettings(
        rank=basis.rank, alpha=float(basis.rank), target_modules=basis.modules, first_layer_share=0.0, seed=basis.seed
    )
