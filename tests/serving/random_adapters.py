"""Random adapters for the embedded base model, programs that run a real engine on it, and when two of its answers are
the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from serving.base_model import ensure_base_model
from serving.paths import cache_folder
from serving.processor import cpu_dtype

# Other orders of summation in bf16, over 30 layers. From batch to batch the log-probabilities of one row differed by
# 0.02 on average and 0.19 at most (also under vLLM's own operators where they are right: rows with an adapter), of base
# rows that got another row's adapter by 0.07 and 0.9.
TOLERANCE, MEAN_TOLERANCE = 0.3, 0.05
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
SHAPES = {  # (in, out) of SmolLM2-135M
    "q_proj": (576, 576),
    "k_proj": (576, 192),
    "v_proj": (576, 192),
    "o_proj": (576, 576),
    "gate_proj": (576, 1536),
    "up_proj": (576, 1536),
    "down_proj": (1536, 576),
}


def engine_arguments(slots: int, **others: Any) -> dict[str, Any]:
    """What `vllm.LLM` is made with."""
    return {
        "model": str(ensure_base_model("embedded", cache_folder(), print)),
        "worker_cls": "serving.engine.worker.LearnwareCPUWorker",
        "dtype": cpu_dtype(),
        "enable_lora": True,
        "max_loras": slots,
        "max_lora_rank": 16,
        "max_model_len": 512,
        "max_num_seqs": 16,
        "kv_cache_memory_bytes": 256 << 20,
        "enable_prefix_caching": False,
        "seed": 0,
    } | others


def run_engine(program: Path, folder: Path, order: dict[str, Any]) -> dict[str, Any]:
    """Runs a program with an order and returns what it wrote: `program ORDER.json RESULT.json`."""
    (folder / "order.json").write_text(json.dumps(order))
    environment = os.environ | {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",  # two threads that wait for each other are slow on a machine that does other work
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": os.pathsep.join(["", *sys.path]).lstrip(os.pathsep),
    }
    with (folder / "log.txt").open("wb") as log:
        subprocess.run(
            [sys.executable, program, folder / "order.json", folder / "out.json"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=500,
        )
    if not (folder / "out.json").exists():
        pytest.fail("the engine did not finish:\n" + (folder / "log.txt").read_text(errors="replace")[-4000:])
    return json.loads((folder / "out.json").read_text())


def write_adapter(folder: Path, rank: int, modules: tuple[str, ...], seed: int, **change: Any) -> str:
    """A random adapter in PEFT's layout, strong enough to change every answer."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for number in range(30):
        for module in modules:
            block = "mlp" if module in MLP else "self_attn"
            name = f"base_model.model.model.layers.{number + change.get('first_layer', 0)}.{block}.{module}"
            features, outputs = SHAPES[module]
            features -= change.get("fewer_features", 0)
            a = torch.randn(rank, features, generator=random) / features**0.5
            b = torch.randn(outputs, rank, generator=random) * (0.5 / rank**0.5)
            tensors[f"{name}.lora_A.weight"] = a.bfloat16()
            tensors[f"{name}.lora_B.weight"] = b.bfloat16()
    for name in list(tensors)[: change.get("not_finite", 0)]:
        tensors[name][0, 0] = float("nan")
    for name in list(tensors)[: change.get("missing", 0)]:
        del tensors[name]
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(modules), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def answer_of(output: Any) -> dict[str, Any]:
    """vLLM's output of one request as JSON: its tokens, and for each position the log-probabilities of the likeliest
    and of the chosen one."""
    return {
        "tokens": list(output.token_ids),
        "logprobs": [{str(token): entry.logprob for token, entry in position.items()} for position in output.logprobs],
    }


def differences(mixed: dict[str, Any], alone: dict[str, Any]) -> list[str]:
    """Where a row's answer is not its own single-request answer. A near tie may fall either way; the answers are then
    compared up to there."""
    found = []
    for position, (token, wanted) in enumerate(zip(mixed["tokens"], alone["tokens"], strict=True)):
        ours, own = mixed["logprobs"][position], alone["logprobs"][position]
        if token != wanted:
            if abs(own.get(str(token), -1e9) - own[str(wanted)]) > TOLERANCE:
                found.append(f"token {position}: {token} for {wanted}")
            break
        if abs(ours[str(token)] - own[str(token)]) > TOLERANCE:
            found.append(f"log-probability {position}: {ours[str(token)]:.3f} for {own[str(token)]:.3f}")
    return found
