"""On a real engine on CPU: each kind of adapter that PEFT writes is served as PEFT computes it.

The measure is the engine's own: over the same prompts its answers with an adapter are as near to PEFT's as its answers
without one are to those of transformers, while the adapter itself changes them by far more.
"""

import shutil
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch

from serving.base_model import ensure_base_model
from serving.paths import cache_folder
from specs.adapter import check_adapter
from specs.adapter_conversion import make_servable
from tests.serving.peft_adapters import (
    ATTENTION,
    Kind,
    compiled_names,
    edit_config,
    edit_tensors,
    load_base,
    logprobs,
    make_adapter,
)
from tests.serving.random_adapters import engine_arguments, run_engine

pytestmark = [pytest.mark.engine, pytest.mark.extra, pytest.mark.timeout(600)]

MAX_RANK = 32
PATTERNS = {
    "rank_pattern": {r"layers\.\d+\.self_attn\.q_proj": 16, "k_proj": 2, "model.layers.3.mlp.up_proj": 12},
    "alpha_pattern": {"v_proj": 3, r"^model\.layers\.[12]\.mlp\.(up|down)_proj": 24, "gate_proj": 1.5},
}
KINDS = {
    "plain": Kind(),
    "alpha far from the rank": Kind({"r": 12, "lora_alpha": 5}),
    "rank-stabilised": Kind({"r": 16, "use_rslora": True, "lora_alpha": 8}),
    "rank and alpha patterns": Kind(PATTERNS),
    "rank-stabilised with patterns": Kind(PATTERNS | {"use_rslora": True}),
    "a large rank that no layer has": Kind({"r": 64, "rank_pattern": {".*_proj": 8}}),
    "excluded and surplus modules, idle options": Kind(
        {"target_modules": [*ATTENTION, "c_attn", "w1"], "exclude_modules": ["o_proj"], "modules_to_save": []},
        after=edit_config(bias="lora_only", layer_replication=[], a_new_option="default"),
    ),
    "some layers only": Kind({"layers_to_transform": list(range(10, 30))}),
    "modules by a pattern": Kind({"target_modules": r"model\.layers\.\d*[02468]\.mlp\.(up|down)_proj"}),
    "half precision": Kind(dtype=torch.float16),
    "bfloat16": Kind({"use_rslora": True}, dtype=torch.bfloat16),
    "output layer, with a copy of the base's": Kind({"target_modules": [*ATTENTION, "lm_head"]}),
    "input embedding": Kind({"target_modules": [*ATTENTION, "embed_tokens"]}, strength=0.01),
    "a compiled model's": Kind(after=edit_tensors(compiled_names)),
    "PiSSA, converted by PEFT": Kind({"init_lora_weights": "pissa"}, converted=True),
    "PiSSA, with the initial adapter": Kind({"init_lora_weights": "pissa_niter_4", "r": 16}, initial=True),
    "rank-stabilised OLoRA with patterns and the initial adapter": Kind(
        {"init_lora_weights": "olora", "use_rslora": True, "lora_alpha": 4, "rank_pattern": {"k_proj": 4}}, initial=True
    ),
}
ROUNDING = 2e-4
"""Nats by which float32's rounding may move a log-probability on any processor; a scale that is 1 % off moves one by
ten times as much."""
PROMPTS = [
    "The capital of France is",
    "def add(a, b):\n    return",
    "The patient was given 5 mg of the drug and",
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn, which is",
    "Jack had 8 pens, lost 3 and bought 12. He now has",
    "Once upon a time there was a small",
    "In spring, when the snow melts, the river floods the lower meadows, and the farmers move their cattle to",
    "Is the colour warm or cold?\nthe small old red house\nAnswer:",
    "What are the side effects of metformin?",
    "2 + 2 =",
    "SELECT name FROM people WHERE",
    "Dear Sir or Madam, I write to",
    "The opposite of hot is",
    "Water boils at 100 degrees",
    "In 1969 the first people walked on",
    "The three primary colours are red,",
    "To make bread you need flour, water and",
    "Her brother's daughter is her",
    "The company said on Tuesday that it",
    "Once the engine is warm, the valve",
    "x = 3; y = 2 * x; y is",
    "Translate into French: good morning.",
    "The largest planet of the solar system is",
    "He opened the door and saw",
]


@pytest.fixture(scope="module")
def base() -> Path:
    return ensure_base_model("embedded", cache_folder(), print)


@pytest.fixture(scope="module")
def answers(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One engine for all kinds. Largest and mean differences of log-probabilities, of the engine's 20 likeliest tokens
    after each prompt: from PEFT's, and of PEFT's from the base model's."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("kinds")
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(prompt).input_ids for prompt in PROMPTS]
    expected, adapters = {None: logprobs(load_base(base), prompts)}, {}
    for name, kind in KINDS.items():
        made = folder / "made" / name
        expected[name] = make_adapter(base, made, kind, partial(logprobs, prompts=prompts))
        served = Path(shutil.copytree(made, folder / "served" / name))
        make_servable(served, base)
        assert check_adapter(served).rank <= MAX_RANK
        adapters[name] = str(served)
    rows = [[[prompt, name] for prompt in PROMPTS] for name in (None, *KINDS)]
    # float32: what remains between two ways to add is then far smaller than any error of a scale
    arguments = engine_arguments(4, max_lora_rank=MAX_RANK, max_logprobs=20, dtype="float32")
    order = {"engine": arguments, "adapters": adapters, "refused": {}, "tokens": 1, "logprobs": 20, "batches": rows}
    written = run_engine(Path(__file__).with_name("engine_answers.py"), folder, order)
    found = {}
    for name, batch in zip((None, *KINDS), written["batches"], strict=True):
        differences, moved = [], 0.0
        for number, answer in enumerate(batch):
            for token, logprob in answer["logprobs"][0].items():
                reference = float(expected[name][number][int(token)])
                differences.append(abs(logprob - reference))
                moved = max(moved, abs(reference - float(expected[None][number][int(token)])))
        found[name] = {"off": max(differences), "mean": mean(differences), "moved": moved}
    print("\n".join(f"{name or 'base'}: {values}" for name, values in found.items()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_served_as_peft_computes_it(answers: dict[str, Any], kind: str) -> None:
    base, adapter = answers[None], answers[kind]
    assert adapter["mean"] <= 1.5 * base["mean"]
    assert adapter["off"] <= max(1.5 * base["off"], ROUNDING)
    assert adapter["moved"] >= 5 * max(base["off"], ROUNDING)
