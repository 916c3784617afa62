"""The servers that `benchmarks.paging` compares, and the adapters they serve."""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmarks.common.servers import BASE_MODEL_ID, Server, cpu_dtype, free_port
from benchmarks.common.tasks import STARTER_LEARNWARES
from specs.base_layers import Layers, read_layers

COUNTS = ("steps", "lora_steps", "needed", "loads", "disk_reads", "disk_reads_in_step")
"""Names of the counts that the workers of `benchmarks.paging.counting_workers` keep, in the order of their file."""
COUNTS_FILE = "LEARNWARE_PAGING_COUNTS"
WORKERS = {
    "ours": "benchmarks.paging.counting_workers.CountedLearnwareWorker",
    "stock": "benchmarks.paging.counting_workers.CountedStockWorker",
    "plain": "benchmarks.paging.counting_workers.CountedPlainWorker",
}
MAX_NUM_SEQS = 128
"""vLLM 0.29's own default for its server on a CPU, so that slots are what limits a batch."""
RANK = 16
WITHOUT: dict[str, dict[str, Any]] = {
    "without the queue": {"scheduling": "stock"},
    "without residents first": {"options": {"worker_cls": "benchmarks.paging.counting_workers.AnyOrderWorker"}},
    "without reading ahead": {"options": {"worker_cls": "benchmarks.paging.counting_workers.ReadInStepWorker"}},
    "without the slot writer": {"options": {"worker_cls": "benchmarks.paging.counting_workers.WholeSlotWorker"}},
}
"""Settings of the engine that switch off one part of this stack, by name."""
START_TIMEOUT_S = 900.0
MIB = 1 << 20


class Side(NamedTuple):
    """A running server and the file in which its worker counts."""

    name: str
    server: Server
    counts: Path

    def read_counts(self) -> dict[str, int]:
        return dict(zip(COUNTS, np.fromfile(self.counts, dtype=np.int64).tolist(), strict=True))


def _sources() -> list[Path]:
    return sorted(path.parent for path in STARTER_LEARNWARES.glob("*/learnware.yaml"))


def learnware_ids(count: int) -> list[str]:
    """Returns the ids of the learnwares that `make_learnwares` makes."""
    sources = _sources()
    return [f"{sources[number % len(sources)].name}-{number:04d}" for number in range(count)]


def make_learnwares(folder: Path, count: int, base: Path | None = None) -> list[str]:
    """Makes `count` learnwares, each with files of its own, and returns their ids. Cards and specifications are the
    starters'. With `base` the adapters are random ones of rank 16 over all linear layers of that model, the largest
    that a slot holds; else they are the starters' own, which are a tenth of that."""
    sources = _sources()
    shapes = None if base is None else _linear_layers(base)
    ids = learnware_ids(count)
    for number, name in enumerate(ids):
        source = sources[number % len(sources)]
        if (folder / name).exists():
            continue
        shutil.copytree(source, folder / name)
        if shapes is not None:
            _write_adapter(folder / name, shapes, number)
            # what was measured belongs to the weights
            (folder / name / "specification" / "capability.json").unlink(missing_ok=True)
        card = yaml.safe_load((source / "learnware.yaml").read_text(encoding="utf-8"))
        (folder / name / "learnware.yaml").write_text(yaml.safe_dump(card | {"id": name}), encoding="utf-8")
    return ids


def _linear_layers(base: Path) -> Layers:
    """Returns the decoder's linear layers.

    Raises:
        ValueError: the model is of a type whose layers are not known here.
    """
    layers = read_layers(base)
    if layers is None:
        raise ValueError(f"the layers of the model in {base} are not known; a Llama-like one is needed")
    return {name: shape for name, shape in layers.items() if ".layers." in name}


def _write_adapter(folder: Path, shapes: Layers, seed: int) -> None:
    """Overwrites an adapter with a random one, weak enough that the model still writes text."""
    random = np.random.default_rng(seed)

    def half(rows: int, columns: int, size: float) -> NDArray[np.float16]:
        return (random.standard_normal((rows, columns), dtype=np.float32) * size).astype(np.float16)

    tensors = {}
    for name, (features, outputs) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = half(RANK, features, features**-0.5)
        tensors[f"base_model.model.{name}.lora_B.weight"] = half(outputs, RANK, 0.01)
    save_file(tensors, folder / "adapter_model.safetensors")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    modules = sorted({name.rsplit(".", 1)[1] for name in shapes})
    changed = {"r": RANK, "lora_alpha": RANK, "target_modules": modules, "layers_to_transform": None}
    file.write_text(json.dumps(config | changed), encoding="utf-8")


@contextmanager
def running(
    names: Sequence[str], slots: int, host: int, learnwares: Path, scratch: Path, base: str
) -> Iterator[dict[str, Side]]:
    """Starts the named sides one after the other and ends them together: this stack and its variants (`WITHOUT`), and
    stock with this project's operators (`stock`) or its own (`plain`)."""
    with ExitStack() as cleanup:
        sides = {}
        for name in names:
            counts = scratch / f"counts-{name}-{time.time_ns()}"
            port = free_port()
            command = (
                _ours(name, scratch, port, slots, host, learnwares)
                if name == "ours" or name in WITHOUT
                else _stock(name, port, slots, host, learnwares, base)
            )
            environment = {
                COUNTS_FILE: str(counts),
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1",
            }
            print(f"  starting {name} with {slots} slots …", flush=True)
            server = Server(name, command, f"http://127.0.0.1:{port}", scratch / f"{name}.log", environment)
            cleanup.callback(server.stop)
            first = {"model": BASE_MODEL_ID, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            server.wait_for("/v1/chat/completions", START_TIMEOUT_S, json.dumps(first).encode())
            sides[name] = Side(name, server, counts)
        yield sides


def mean_bytes(learnwares: Path) -> float:
    """Returns the mean size of the adapters' weights in an engine's memory; their files hold two bytes a number."""
    on_disk = np.mean([path.stat().st_size for path in learnwares.glob("*/adapter_model.safetensors")])
    return float(on_disk) * (2 if cpu_dtype() == "float32" else 1)


def _ours(name: str, scratch: Path, port: int, slots: int, host: int, learnwares: Path) -> list[str]:
    file = scratch / f"config-{port}.yaml"
    engine = {
        "slots": slots,
        "host_adapter_mib": max(host, slots) * mean_bytes(learnwares) / MIB,
        "max_num_seqs": MAX_NUM_SEQS,
        "kv_cache_gib": 1.0,
        "options": {"worker_cls": WORKERS["ours"]},
    } | WITHOUT.get(name, {})
    limits = {"max_waiting": 4096, "max_wait_s": 3600.0}  # stock refuses nothing either
    config = {"http": {"port": port}, "learnwares": {"folder": str(learnwares)}, "engine": engine, "limits": limits}
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return [str(Path(sys.executable).with_name("learnware-serving")), "serve", "--config", str(file)]


def _stock(name: str, port: int, slots: int, host: int, learnwares: Path, base: str) -> list[str]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", base, "--served-model-name", BASE_MODEL_ID, "--dtype", cpu_dtype(), "--enforce-eager"]
    command += ["--worker-cls", WORKERS[name], "--enable-lora", "--max-loras", str(slots)]
    command += ["--max-cpu-loras", str(max(host, slots)), "--max-lora-rank", "16", "--max-model-len", "2048"]
    command += ["--max-num-seqs", str(MAX_NUM_SEQS), "--disable-uvicorn-access-log", "--lora-modules"]
    return command + [f"{folder.name}={folder}" for folder in sorted(learnwares.iterdir())]
