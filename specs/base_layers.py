"""The layers of a base model that take adapters, and their sizes, read from its `config.json` alone.

With them an adapter for another base model is refused when it is submitted, without an engine and in milliseconds.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specs.errors import InvalidInput, InvalidLearnware

LLAMA_LIKE = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
"""Model types (`model_type`) whose decoder layers have Llama's names and shapes."""

Layers = Mapping[str, tuple[int, int]]
"""Maps a layer's path as PEFT writes it (`model.layers.0.self_attn.q_proj`) to its numbers of input and output
features."""

SHOWN = 3
"""Number of unknown layers that an error message names."""


def read_layers(base: Path) -> Layers | None:
    """Returns the layers of the base model in `base` that take adapters, or None for a model type that is not known
    here (then the engine alone finds out, when it loads the adapter).

    Raises:
        InvalidInput: there is no readable config.json.
    """
    try:
        config = json.loads((base / "config.json").read_bytes())
        if config["model_type"] not in LLAMA_LIKE:
            return None
        return _llama_layers(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"config.json of the base model in {base} cannot be read: {error!r}") from None


def check_fits(adapter: Layers, layers: Layers) -> None:
    """Raises InvalidLearnware when the adapter changes a layer that the base model lacks, or one of another size."""
    unknown = sorted(set(adapter) - set(layers))
    if unknown:
        kinds = sorted({path.rpartition(".")[2] for path in layers})
        depth = depth_of(layers)
        raise InvalidLearnware(
            f"{len(unknown)} of the adapter's {len(adapter)} layers are not in the base model: "
            f"{', '.join(unknown[:SHOWN])}; it takes adapters for {', '.join(kinds)} of {depth} decoder layers"
        )
    for path, shape in adapter.items():
        if shape != layers[path]:
            raise InvalidLearnware(
                f"{path}: the adapter maps {shape[0]} features to {shape[1]}, the base model's layer "
                f"{layers[path][0]} to {layers[path][1]}"
            )


def depth_of(layers: Layers) -> int:
    """Returns the number of decoder layers among a base model's layers."""
    return sum(path.endswith(".self_attn.q_proj") for path in layers)


def _llama_layers(config: Mapping[str, Any]) -> Layers:
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    queries, values = heads * head, (config.get("num_key_value_heads") or heads) * head
    block = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, values),
        "self_attn.v_proj": (hidden, values),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, intermediate),
        "mlp.up_proj": (hidden, intermediate),
        "mlp.down_proj": (intermediate, hidden),
    }
    layers = {
        f"model.layers.{depth}.{name}": shape
        for depth in range(config["num_hidden_layers"])
        for name, shape in block.items()
    }
    layers["lm_head"] = (hidden, config["vocab_size"])
    layers["model.embed_tokens"] = (config["vocab_size"], hidden)
    return layers
