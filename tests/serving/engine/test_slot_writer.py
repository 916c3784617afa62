"""A slot holds exactly the adapter that was written last, whatever it held before: compared with vLLM's own setter."""

import random
import warnings
from types import SimpleNamespace

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.lora.layers import MergedColumnParallelLinearWithLoRA, VocabParallelEmbeddingWithLoRA
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA

    from serving.engine.slot_writer import Copies, SlotWriter

pytestmark = pytest.mark.vllm

SLOTS, RANK, FEATURES = 3, 4, 6
OUTPUTS = (5, 7)


def module(kind, outputs):
    """A layer of vLLM's class with nothing but its stacks."""
    made = object.__new__(kind)
    torch.nn.Module.__init__(made)
    made.n_slices, made.tp_size, made.output_sizes = len(outputs), 1, list(outputs)
    made.lora_a_stacked = tuple(torch.zeros(SLOTS, 1, RANK, FEATURES) for _ in outputs)
    made.lora_b_stacked = tuple(torch.zeros(SLOTS, 1, out, RANK) for out in outputs)
    return made


def weights(outputs, rank, holes=()):
    a = [None if i in holes else torch.randn(rank, FEATURES) for i in range(len(outputs))]
    b = [None if i in holes else torch.randn(out, rank) for i, out in enumerate(outputs)]
    return SimpleNamespace(lora_a=a, lora_b=b) if len(outputs) > 1 else SimpleNamespace(lora_a=a[0], lora_b=b[0])


def write(writer, slot, adapter):
    copies = Copies([], [], [])
    writer.prepare(slot, adapter, copies)
    copies.run(non_blocking=False)


@pytest.mark.parametrize("outputs", [OUTPUTS[:1], OUTPUTS], ids=["one slice", "packed"])
def test_any_order_of_adapters_leaves_what_vllm_would_leave(outputs):
    kind = BaseLinearLayerWithLoRA if len(outputs) == 1 else MergedColumnParallelLinearWithLoRA
    ours, stock = module(kind, outputs), module(kind, outputs)
    writer = SlotWriter(ours, SLOTS)
    assert writer.plain
    choose = random.Random(0)
    for _ in range(60):
        slot = choose.randrange(SLOTS)
        if choose.random() < 0.3:
            adapter = None
            stock.reset_lora(slot)
        else:
            holes = (choose.randrange(2),) if len(outputs) > 1 and choose.random() < 0.3 else ()
            adapter = weights(outputs, choose.randint(1, RANK), holes)
            stock.set_lora(slot, adapter.lora_a, adapter.lora_b)
        write(writer, slot, adapter)
        for mine, theirs in zip(
            (*ours.lora_a_stacked, *ours.lora_b_stacked), (*stock.lora_a_stacked, *stock.lora_b_stacked), strict=True
        ):
            assert torch.equal(mine, theirs)


def test_an_empty_slot_stays_empty_without_a_write():
    writer = SlotWriter(module(BaseLinearLayerWithLoRA, OUTPUTS[:1]), SLOTS)
    copies = Copies([], [], [])
    writer.prepare(0, None, copies)
    assert copies == Copies([], [], [])


def test_after_a_failed_copy_everything_in_the_slot_is_cleared():
    layer = module(BaseLinearLayerWithLoRA, OUTPUTS[:1])
    writer = SlotWriter(layer, SLOTS)
    layer.lora_a_stacked[0][1] = layer.lora_b_stacked[0][1] = 7.0
    writer.distrust(1)
    write(writer, 1, weights(OUTPUTS[:1], 2))
    assert not layer.lora_a_stacked[0][1, 0, 2:].any()
    assert not layer.lora_b_stacked[0][1, 0, :, 2:].any()
    assert writer.ranks(1) == (2,)


def test_layers_that_are_not_plain_copies_are_left_to_vllm():
    calls = []

    class Embedding(VocabParallelEmbeddingWithLoRA):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def set_lora(self, index, lora_a, lora_b):
            calls.append(("set", index))

        def reset_lora(self, index):
            calls.append(("reset", index))

    writer = SlotWriter(Embedding(), SLOTS)
    for adapter in (None, weights((5,), 2), None, None):
        write(writer, 2, adapter)
    assert calls == [("set", 2), ("reset", 2)]
