"""Costs of an engine's step, for `benchmarks.simulate`: on an H100 from the hardware's data sheet and the model's
shapes, on CPU from coefficients that a measurement gives.

Nothing here was measured on a GPU. The constants that no data sheet has are marked as assumptions, and
`benchmarks.simulate` shows how its answers move with them.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

GIB = 1 << 30
BF16_BYTES = 2

# -- one H100 SXM with 80 GB (NVIDIA H100 Tensor Core GPU data sheet)

HBM_BYTES_PER_S = 3.35e12
TENSOR_FLOPS = 989e12
"""FLOP a second in dense bfloat16, without sparsity."""
PCIE_BYTES_PER_S = 64e9
"""Bytes a second of PCIe 5.0 x16 in one direction."""
USABLE_GIB = 78.0
"""Memory that an H100 shows to a program, as `deploy/h100-8b.yaml` has it."""

# -- assumptions

HBM_SHARE = 0.7
"""Share of the HBM's bandwidth that a decode step reaches. 8B models in bf16 decode at about 7 ms a token for one
request, where the weights alone would take 4.9 ms."""
TENSOR_SHARE = 0.5
"""Share of the tensor cores' rate that prefill of some thousand tokens reaches."""
PCIE_SHARE = 0.8
"""Share of the bus's rate that copies from pinned memory of some megabytes reach."""
STEP_OVERHEAD_S = 0.5e-3
"""Seconds of a step for which the GPU waits for the CPU, with CUDA graphs and asynchronous scheduling."""
COPIES_PER_LOAD = 2 * 7 * 36
"""Copies that bring an adapter into a slot: A and B of seven matrices in 36 layers, as vLLM 0.29's `set_lora` makes
them."""
COPY_S = 10e-6
"""Seconds that starting one copy takes."""
DISK_BYTES_PER_S = 2e9
"""Bytes a second of reading an adapter from a local NVMe disk, checks included."""
DISK_START_S = 5e-3

# -- Qwen3-8B, from its configuration; `deploy/h100-8b.yaml` derives the same numbers

LAYERS, HIDDEN, KV_HEADS, HEAD, INTERMEDIATE, VOCABULARY = 36, 4096, 8, 128, 12288, 151_936
KV_WIDTH = KV_HEADS * HEAD
LAYER_PARAMETERS = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV_WIDTH + 3 * HIDDEN * INTERMEDIATE
READ_PARAMETERS = LAYERS * LAYER_PARAMETERS + VOCABULARY * HIDDEN
"""Parameters that a step reads: all layers and the output embedding. The input embedding is a look-up."""
WEIGHT_BYTES = (READ_PARAMETERS + VOCABULARY * HIDDEN) * BF16_BYTES
KV_BYTES_PER_TOKEN = 2 * LAYERS * KV_WIDTH * BF16_BYTES
ADAPTER_NUMBERS_PER_RANK = LAYERS * (2 * (HIDDEN + HIDDEN) + 2 * (HIDDEN + KV_WIDTH) + 3 * (HIDDEN + INTERMEDIATE))
"""An adapter's numbers for each rank: inputs and outputs of q, o, k, v, gate, up and down of each layer."""
SLOT_NUMBERS_PER_RANK = ADAPTER_NUMBERS_PER_RANK + 2 * (VOCABULARY + HIDDEN)
"""A slot's numbers for each rank: vLLM 0.29 also makes room in every slot for adapters of both embeddings."""
ACTIVATION_GIB = 4.0
"""GiB of activations, as `deploy/h100-8b.yaml` estimates them; vLLM measures them at start."""


def adapter_bytes(rank: int) -> int:
    """Returns the bytes of an adapter of all linear layers, in host memory or on disk."""
    return rank * ADAPTER_NUMBERS_PER_RANK * BF16_BYTES


def slot_bytes(rank: int) -> int:
    """Returns the bytes of device memory of a slot for adapters of up to this rank."""
    return rank * SLOT_NUMBERS_PER_RANK * BF16_BYTES


def kv_tokens(slots: int, rank: int, utilization: float = 0.9) -> int:
    """Returns the tokens whose keys and values fit beside the weights and this many slots; it is negative when nothing
    is left."""
    free = (utilization * USABLE_GIB - ACTIVATION_GIB) * GIB - WEIGHT_BYTES - slots * slot_bytes(rank)
    return int(free // KV_BYTES_PER_TOKEN)


class Work(NamedTuple):
    """The work of one step: rows that decode, tokens that are prefilled, tokens of context that are read, adapters in
    the batch, adapters copied into slots."""

    decoded: int
    prefilled: int
    context: int
    adapters: int
    loads: int


class Costs(Protocol):
    """A cost model: the seconds of a step, and of reading an adapter from disk."""

    def step(self, work: Work) -> float: ...

    def read(self, size: int) -> float: ...


@dataclass(frozen=True)
class H100:
    """The costs of Qwen3-8B on one H100. A step takes as long as the slower of reading memory and of computing; copies
    into slots are part of it (`overlapped`: they run beside it, on a stream of their own)."""

    rank: int
    """Rank of a slot: vLLM's kernels read the padded rank of each adapter in the batch."""
    hbm_share: float = HBM_SHARE
    overlapped: bool = False

    def step(self, work: Work) -> float:
        read = READ_PARAMETERS * BF16_BYTES + work.context * KV_BYTES_PER_TOKEN
        read += work.adapters * adapter_bytes(self.rank)
        tokens = work.decoded + work.prefilled
        numbers = READ_PARAMETERS + self.rank * ADAPTER_NUMBERS_PER_RANK
        computed = 2 * numbers * tokens / (TENSOR_FLOPS * TENSOR_SHARE)
        busy = max(read / (HBM_BYTES_PER_S * self.hbm_share), computed)
        copied = adapter_bytes(self.rank) / (PCIE_BYTES_PER_S * PCIE_SHARE)
        if self.overlapped:
            return STEP_OVERHEAD_S + max(busy, work.loads * copied)
        return STEP_OVERHEAD_S + busy + work.loads * (copied + COPIES_PER_LOAD * COPY_S)

    def read(self, size: int) -> float:
        return DISK_START_S + size / DISK_BYTES_PER_S


@dataclass(frozen=True)
class Linear:
    """The costs of a step on CPU, as a sum over its work. The coefficients, in seconds, come from a measurement
    (`benchmarks.simulate.check`)."""

    per_step: float
    per_row: float
    per_prefilled: float
    per_adapter: float
    per_load: float
    per_read: float = 0.05

    def step(self, work: Work) -> float:
        return (
            self.per_step
            + self.per_row * work.decoded
            + self.per_prefilled * work.prefilled
            + self.per_adapter * work.adapters
            + self.per_load * work.loads
        )

    def read(self, size: int) -> float:  # noqa: ARG002  # adapters of one benchmark are of about one size
        return self.per_read
