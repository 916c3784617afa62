"""A base model that adapters share while they are measured: none of them may change what the next one is measured on.

PEFT initialises an adapter before it reads its weights, and some initialisations rewrite the base: PiSSA, OLoRA, CorDA,
LoftQ and LoRA-GA take their own start out of it, KaSA its smallest singular values (peft 0.21, `LoraLayer.update_layer`
and its variants). Loaded beside others, such an adapter changes the scores of all that come after it, and the base
model's. An engine reads the weights only. So here every adapter begins as plain LoRA, whatever its configuration says
of its beginning, its own weights alone are read, and the base's weights are compared by their hashes after each.
"""

import hashlib
import json
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from serving.training.adapter import older_names
from specs.adapter import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from specs.errors import InvalidLearnware

BEGINNINGS = ("loftq_config", "eva_config", "corda_config", "lora_ga_config")
"""Options of PEFT that say how an adapter begins before it is trained; a trained one needs none of them."""
WRAPPED = (".base_layer", ".original_module")
"""Parts of a parameter's name that PEFT puts in where it wraps the module."""


def check_measurable(adapters: Mapping[str, Path]) -> None:
    """Checks each adapter as it is checked before it is served: what an engine would serve otherwise than PEFT loads it
    has no score that would mean anything.

    Raises:
        InvalidLearnware: one of them cannot be served; the message names it and says why.
    """
    for name, folder in adapters.items():
        try:
            check_adapter(folder)
        except InvalidLearnware as error:
            raise InvalidLearnware(f"learnware {name}: {error}") from None


class SharedBase:
    """A loaded base model with any number of adapters, of which one or none is active at a time."""

    def __init__(self, model: Any) -> None:
        """Takes the base model `model` of transformers, which is wrapped in place."""
        self.model = model
        self._keys: dict[str, str] = {}
        self._adapted: Any = None
        self._hashes: dict[str, bytes] = {}

    def attach(self, name: str, folder: Path) -> None:
        """Loads the adapter of a PEFT folder under a name; it is not active yet.

        Raises:
            InvalidLearnware: PEFT cannot load it on this base, would leave out some of its weights, or has changed the
                base's weights; after the last of these the base is of no use any more.
        """
        from peft import PeftModel, set_peft_model_state_dict
        from safetensors.torch import load_file

        # A number instead of the name: PyTorch takes no dots in a module's name, and two names may differ by one alone.
        key = f"learnware{len(self._keys)}"
        weights = load_file(folder / WEIGHTS_FILE)
        # Once and for all: what came before must not count as the base.
        self._hashes = self._hashes or self._hash_base({name for name, _ in self.model.named_parameters()})
        try:
            config = plain_config(folder)
            with older_names():
                if self._adapted is None:
                    self._adapted = PeftModel(self.model, config, key, autocast_adapter_dtype=False)
                else:
                    self._adapted.add_adapter(key, config, autocast_adapter_dtype=False)
                loaded = set_peft_model_state_dict(self._adapted, weights, key)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise InvalidLearnware(f"learnware {name}: PEFT cannot load it: {' '.join(str(error).split())}") from error
        if loaded.unexpected_keys:
            raise InvalidLearnware(
                f"learnware {name}: {CONFIG_FILE} describes other layers than {WEIGHTS_FILE} holds: PEFT would leave "
                f"out {len(loaded.unexpected_keys)} of {len(weights)} tensors, which an engine would serve"
            )
        self._keys[name] = key
        self.model.eval()
        try:
            self.check_integrity()
        except RuntimeError as error:
            raise InvalidLearnware(
                f"learnware {name}: it cannot be measured: when PEFT loads it, {error}, and an engine would serve it "
                "on the base as it is"
            ) from None

    def detach(self) -> None:
        """Takes all adapters off; the model is then as it was before the first."""
        if self._adapted is not None:
            self.model = self._adapted.unload()
        self._adapted = None
        self._keys = {}

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Activates the named adapter, or with None the base alone, inside the context."""
        if name is not None:
            self._adapted.set_adapter(self._keys[name])
            yield
        elif self._adapted is None:
            yield
        else:
            with self._adapted.disable_adapter():
                yield

    def check_integrity(self) -> None:
        """Raises RuntimeError when a weight of the base is not what it was before the first adapter."""
        now = self._hash_base(self._hashes)
        changed = [name for name, digest in self._hashes.items() if now.get(name) != digest]
        if changed:
            raise RuntimeError(
                f"{len(changed)} of {len(self._hashes)} tensors of the base model have changed ({changed[0]}"
                f"{', …' if len(changed) > 1 else ''})"
            )

    def _hash_base(self, names: Container[str]) -> dict[str, bytes]:
        """Returns the SHA-256 of each of the base's own parameters among `names`, wherever PEFT has put it: 0.6 s for
        1 GB, little beside the time that a gigabyte takes to score a row."""
        found = {}
        for full, parameter in self.model.named_parameters():
            name = full
            for part in WRAPPED:
                name = name.replace(part, "")
            if name in names:
                values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                found[name] = hashlib.sha256(values.numpy()).digest()
        return found


def plain_config(folder: Path) -> Any:
    """Returns the `LoraConfig` of a PEFT folder with which it is loaded to be measured: it begins as plain LoRA, with a
    B of zeros, and touches nothing else."""
    from peft import LoraConfig

    values = json.loads((folder / CONFIG_FILE).read_bytes())
    kept = {name: value for name, value in values.items() if name not in (*BEGINNINGS, "runtime_config")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unexpected keyword arguments", category=UserWarning)
        return LoraConfig.from_peft_type(**kept | {"init_lora_weights": True, "inference_mode": True})
