"""Each layer's rank and scaling, by the patterns of a configuration."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from specs.adapter_config import AdapterConfig, checked_config, read_config
from specs.errors import InvalidLearnware
from tests.specs.learnware_folder import adapter_config

LAYERS = [
    f"model.layers.{number}.{module}"
    for number in (0, 1, 11, 12)
    for module in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
] + ["lm_head", "model.embed_tokens", "score_proj"]
PATTERNS = [
    ["q_proj"],
    ["proj", "k_proj", "self_attn.k_proj"],
    ["self_attn.q_proj", "q_proj"],
    ["model.layers.1.self_attn.q_proj", ".*q_proj", "layers.11.mlp.up_proj"],
    [r"^model\.layers\.[01]\..*", "up_proj", "down_proj"],
    [r".*\.1\d?\.mlp\.(up|down)_proj", "mlp.up_proj", ".*"],
    [r"(q|k)_proj", r"layers\.\d+\.self_attn\..*", "lm_head"],
    ["embed_tokens", "_proj", r"\w+_proj", r"0\.self_attn\.k_proj"],
    [r"model.layers.1.*", "q_proj$", "layers.1.mlp.up_proj"],
]


def config(**changes: Any) -> AdapterConfig:
    return checked_config(adapter_config(**changes))


@pytest.mark.slow
@pytest.mark.parametrize("keys", PATTERNS, ids=str)
def test_keys_match_as_peft_matches_them(keys: list[str]) -> None:
    from peft.utils.other import get_pattern_key

    ranks = {key: number for number, key in enumerate(keys, start=1)}
    ours = config(r=100, rank_pattern=ranks, alpha_pattern={key: 0.5 * rank for key, rank in ranks.items()})
    for layer in LAYERS:
        rank = ranks.get(get_pattern_key(list(ranks), layer), 100)
        assert ours.rank_of(layer) == rank, layer
        assert ours.scaling_of(layer) == pytest.approx(0.5 if rank < 100 else 8 / 100)  # 8: PEFT's default alpha


def test_each_layer_has_its_own_scaling() -> None:
    plain = config(r=8, lora_alpha=16, rank_pattern={"q_proj": 4}, alpha_pattern={"k_proj": 2})
    assert [plain.scaling_of(layer) for layer in ("a.q_proj", "a.k_proj", "a.v_proj")] == [4.0, 0.25, 2.0]
    stable = config(r=16, lora_alpha=16, rank_pattern={"q_proj": 4}, use_rslora=True)
    assert [stable.scaling_of(layer) for layer in ("a.q_proj", "a.k_proj")] == [8.0, 4.0]


def test_a_pattern_that_never_ends_is_refused() -> None:
    slow = config(rank_pattern={r"((.|\w)*)*[A-Z]x?": 2})
    start = time.monotonic()
    with pytest.raises(InvalidLearnware, match="takes too long to be matched"):
        slow.rank_of("model.layers.0.self_attn.q_proj_and_more_and_more_and_more")
    assert time.monotonic() - start < 5


def test_patterns_of_every_layer_take_no_time() -> None:
    layers = [f"model.layers.{number}.mlp.part{part}" for number in range(64) for part in range(16)]
    named = config(rank_pattern={layer: 1 + number % 8 for number, layer in enumerate(layers)})
    start = time.monotonic()
    assert [named.rank_of(layer) for layer in layers] == [1 + number % 8 for number in range(len(layers))]
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank_pattern": {"(q_proj": 4}}, "has the key '(q_proj', which is no regular expression"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern of 'q_proj' is 0; it must be a whole number from 1 to 512"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern must be an object"),
        ({"alpha_pattern": {"q_proj": -1}}, "alpha_pattern of 'q_proj' is -1; it must be a positive number"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be null or a list of names"),
        ({"base_model_name_or_path": 5}, "must name the base model"),
        ({"target_modules": None}, "target_modules must list the modules"),
    ],
)
def test_a_wrong_option_is_named(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidLearnware) as caught:
        config(**changes).rank_of("model.layers.0.self_attn.q_proj")
    assert reason in str(caught.value)


def test_what_is_not_an_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps([1]))
    with pytest.raises(InvalidLearnware, match="must be an object with peft_type LORA"):
        read_config(tmp_path)
