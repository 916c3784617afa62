"""The servers that `benchmarks.paging` compares, and the adapters they serve."""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from benchmarks.servers import Server, free_port
from benchmarks.tasks import STARTER_LEARNWARES

BASE = "SmolLM2-135M-Instruct"
COUNTS = ("steps", "lora_steps", "needed", "loads", "disk_reads", "disk_reads_in_step")
"""What the workers of `serving.engine.counted` count, in the order of their file."""
COUNTS_FILE = "LEARNWARE_PAGING_COUNTS"
WORKERS = {
    "ours": "serving.engine.counted.CountedLearnwareWorker",
    "stock": "serving.engine.counted.CountedStockWorker",
    "plain": "serving.engine.counted.CountedPlainWorker",
}
MAX_NUM_SEQS = 16
START_TIMEOUT_S = 900.0
MIB = 1 << 20


class Side(NamedTuple):
    """A running server and where its worker counts."""

    name: str
    server: Server
    counts: Path

    def read_counts(self) -> dict[str, int]:
        return dict(zip(COUNTS, np.fromfile(self.counts, dtype=np.int64).tolist(), strict=True))


def make_learnwares(folder: Path, count: int) -> list[str]:
    """The starter learnwares under `count` ids, each with files of its own; returns the ids."""
    sources = sorted(path.parent for path in STARTER_LEARNWARES.glob("*/learnware.yaml"))
    ids = []
    for number in range(count):
        source = sources[number % len(sources)]
        name = f"{source.name}-{number:04d}"
        ids.append(name)
        if (folder / name).exists():
            continue
        shutil.copytree(source, folder / name)
        card = yaml.safe_load((source / "learnware.yaml").read_text(encoding="utf-8"))
        (folder / name / "learnware.yaml").write_text(yaml.safe_dump(card | {"id": name}), encoding="utf-8")
    return ids


@contextmanager
def running(
    names: Sequence[str], slots: int, host: int, learnwares: Path, scratch: Path, base: str
) -> Iterator[dict[str, Side]]:
    """The named sides, started one after the other and ended together."""
    with ExitStack() as cleanup:
        sides = {}
        for name in names:
            counts = scratch / f"counts-{name}-{time.time_ns()}"
            port = free_port()
            command = (
                _ours(scratch, port, slots, host, learnwares)
                if name == "ours"
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
            first = {"model": BASE, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            server.wait_for("/v1/chat/completions", START_TIMEOUT_S, json.dumps(first).encode())
            sides[name] = Side(name, server, counts)
        yield sides


def mean_bytes(learnwares: Path) -> float:
    """Mean size of the adapters' weights."""
    return float(np.mean([path.stat().st_size for path in learnwares.glob("*/adapter_model.safetensors")]))


def _ours(scratch: Path, port: int, slots: int, host: int, learnwares: Path) -> list[str]:
    file = scratch / f"config-{port}.yaml"
    engine = {
        "slots": slots,
        "host_adapter_mib": max(host, slots) * mean_bytes(learnwares) / MIB,
        "max_num_seqs": MAX_NUM_SEQS,
        "kv_cache_gib": 1.0,
        "options": {"worker_cls": WORKERS["ours"]},
    }
    config = {"http": {"port": port}, "learnwares": {"folder": str(learnwares)}, "engine": engine}
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return [str(Path(sys.executable).with_name("learnware-serving")), "serve", "--config", str(file)]


def _stock(name: str, port: int, slots: int, host: int, learnwares: Path, base: str) -> list[str]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", base, "--served-model-name", BASE, "--dtype", "bfloat16", "--enforce-eager"]
    command += ["--worker-cls", WORKERS[name], "--enable-lora", "--max-loras", str(slots)]
    command += ["--max-cpu-loras", str(max(host, slots)), "--max-lora-rank", "16", "--max-model-len", "2048"]
    command += ["--max-num-seqs", str(MAX_NUM_SEQS), "--disable-uvicorn-access-log", "--lora-modules"]
    return command + [f"{folder.name}={folder}" for folder in sorted(learnwares.iterdir())]
