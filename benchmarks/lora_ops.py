"""Times the LoRA operators on CPU by themselves: `python -m benchmarks.lora_ops`.

All 30 layers of the embedded base model's shapes, all slots full, one thread, numbers of the type that an engine takes
here: the base matrices, with vLLM's own operators and with ours on top, alternating in one run. The figure for a batch
is its throughput over that of the base alone. The one benchmark that calls the project's code instead of a server: no
server shows operators alone.
"""

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.report import add_output_options, result, setup, table, write_result
from serving.engine.operators import LayerWeights
from serving.processor import cpu_dtype

LAYERS, RANK, SLOTS = 30, 16, 8
SHAPES = ((576, (576, 192, 192)), (576, (576,)), (576, (1536, 1536)), (1536, (576,)))  # qkv, o, gate and up, down
BATCHES = {  # rows of each adapter, by id; 0 is the base
    "decode_1": [(1, 1)],
    "decode_8_one_adapter": [(1, 8)],
    "decode_8_mixed": [(i, 1) for i in range(1, 9)],
    "decode_8_half_base": [(i if i % 2 else 0, 1) for i in range(1, 9)],
    "prefill_128_one_adapter": [(1, 128)],
    "prefill_128_mixed": [(i, 32) for i in range(1, 5)],
    "prefill_128_short": [(i, 16) for i in range(1, 9)],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lora_ops", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=cpu_dtype(), help="default: %(default)s")
    add_output_options(parser)
    options = parser.parse_args()
    # seconds of imports, which `--help` need not wait for
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from serving.engine.punica import GroupedPunicaWrapper

    torch.set_num_threads(1)
    torch.manual_seed(0)
    environment = setup() | {
        "layers": LAYERS,
        "rank": RANK,
        "slots": SLOTS,
        "rounds": options.rounds,
        "threads": 1,
        "dtype": options.dtype,
    }
    dtype = getattr(torch, options.dtype)

    layers = [_Layer(features, outputs, dtype) for _ in range(LAYERS) for features, outputs in SHAPES]
    stock = PunicaWrapperCPU(256, 16, torch.device("cpu"))
    ours = GroupedPunicaWrapper(256, 16, SLOTS)
    for layer in layers:
        layer.ours = ours.adopt_layer(LayerWeights.of_stacks(layer.a, layer.b))

    figures, details, rows = {}, {}, []
    for name, parts in BATCHES.items():
        ids = tuple(i for i, count in parts for _ in range(count))
        for wrapper in (stock, ours):
            wrapper.update_metadata(
                LoRAMapping(ids, tuple(i for i, _ in parts), is_prefill=True), list(range(1, SLOTS + 1)), SLOTS + 1, 0
            )
        x = {features: torch.randn(len(ids), features, dtype=dtype) for features in (576, 1536)}
        seconds: dict[str, list[float]] = {"base": [], "stock": [], "ours": []}
        for number in range(options.rounds + 1):  # the first warms up
            for side, wrapper in (("base", None), ("stock", stock), ("ours", ours)):
                taken = _time(lambda w=wrapper, x=x: _step(layers, x, w, w is ours))
                if number:
                    seconds[side].append(taken)
        for side in ("stock", "ours"):
            ratios = [base / both for base, both in zip(seconds["base"], seconds[side], strict=True)]
            figures[f"{side}_over_base_{name}"] = median(ratios)
            details[f"{side}_over_base_{name}"] = [min(ratios), max(ratios)]
        times = [f"{median(seconds[side]) * 1e3:.1f}" for side in seconds]
        spreads = [
            f"{figures[key]:.2f} ({details[key][0]:.2f} to {details[key][1]:.2f})"
            for key in (f"stock_over_base_{name}", f"ours_over_base_{name}")
        ]
        rows.append([name, *times, *spreads])
        print(f"{name}: done", flush=True)
    header = [
        "batch",
        "base ms",
        "with vLLM's ms",
        "with ours ms",
        "vLLM's : base throughput",
        "ours : base throughput",
    ]
    print(table(header, rows))
    write_result(options, result("lora_ops", figures, environment, details))
    return 0


class _Layer:
    """A base matrix and the adapters of all slots, in vLLM's stacks and in ours."""

    def __init__(self, features: int, outputs: tuple[int, ...], dtype: torch.dtype) -> None:
        self.outputs = outputs
        self.weight = torch.randn(sum(outputs), features, dtype=dtype)
        self.a = tuple(torch.randn(SLOTS, 1, RANK, features, dtype=dtype) for _ in outputs)
        self.b = tuple(torch.randn(SLOTS, 1, out, RANK, dtype=dtype) for out in outputs)
        self.ours = (self.a, self.b)


def _step(layers: list[_Layer], inputs: dict[int, Tensor], wrapper: Any, ours: bool) -> None:
    """The base's matrices, and what `wrapper` (None: nothing) adds to them from its own form of the adapters."""
    for layer in layers:
        x = inputs[layer.weight.shape[1]]
        y = torch.nn.functional.linear(x, layer.weight)
        if wrapper is not None:
            a, b = layer.ours if ours else (layer.a, layer.b)
            wrapper.add_lora_linear(y, x, a, b, 1.0, layer.outputs)


def _time(work: Callable[[], None]) -> float:
    """Returns the CPU seconds of this (the only) thread, so that time which other processes take of the core does not
    count."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


if __name__ == "__main__":
    sys.exit(main())
