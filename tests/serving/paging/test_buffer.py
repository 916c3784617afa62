"""An adapter in one buffer: the same numbers, none of them in the file any more."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from serving.paging.buffer import ALIGNMENT, in_one_buffer


def lora(**modules: tuple) -> SimpleNamespace:
    """As vLLM's `LoRAModel` looks: modules with two halves."""
    return SimpleNamespace(loras={name: SimpleNamespace(lora_a=a, lora_b=b) for name, (a, b) in modules.items()})


def tensors(model: SimpleNamespace) -> list[torch.Tensor]:
    found = []
    for weights in model.loras.values():
        for half in (weights.lora_a, weights.lora_b):
            found += [one for one in half if one is not None] if isinstance(half, list) else [half]
    return found


@pytest.fixture
def packed() -> SimpleNamespace:
    """One module with halves of its own, one whose slices lie in lists and lack a part."""
    torch.manual_seed(0)
    return lora(
        o_proj=(torch.randn(3, 7).bfloat16(), torch.randn(5, 3).bfloat16()),
        qkv_proj=([torch.randn(3, 7), None, torch.randn(3, 7)], [torch.randn(4, 3), None, torch.randn(2, 3)]),
    )


@pytest.mark.parametrize("by_rank", [False, True])
def test_values_shapes_and_types_stay(packed, by_rank):
    before = [one.clone() for one in tensors(packed)]
    in_one_buffer(packed, pin=False, by_rank=by_rank)
    after = tensors(packed)
    assert [(one.dtype, one.shape) for one in after] == [(one.dtype, one.shape) for one in before]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert packed.loras["qkv_proj"].lora_a[1] is None


def test_by_rank_each_b_lies_as_rows_of_outputs(packed):
    in_one_buffer(packed, pin=False, by_rank=True)
    for weights in packed.loras.values():
        halves = zip(_listed(weights.lora_a), _listed(weights.lora_b), strict=True)
        for a, b in ((a, b) for a, b in halves if a is not None):
            assert a.is_contiguous()
            assert b.t().is_contiguous()
            assert not b.is_contiguous()


def _listed(one_or_several):
    return one_or_several if isinstance(one_or_several, list) else [one_or_several]


def test_all_of_it_is_one_piece_of_the_size_that_is_returned(packed):
    size = in_one_buffer(packed, pin=False).buffer.nbytes
    pieces = tensors(packed)
    storages = {one.untyped_storage().data_ptr() for one in pieces}
    assert len(storages) == 1
    assert pieces[0].untyped_storage().nbytes() == size
    assert all(one.data_ptr() % ALIGNMENT == min(storages) % ALIGNMENT for one in pieces)
    spans = sorted((one.data_ptr(), one.data_ptr() + one.nbytes) for one in pieces)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize("by_rank", [False, True])
def test_over_a_copy_of_the_buffer_it_is_the_same_adapter_and_shares_no_memory_with_the_first(packed, by_rank):
    first = in_one_buffer(packed, pin=False, by_rank=by_rank)
    other = first.buffer.clone()
    moved = first.on(other)
    assert all(torch.equal(one, same) for one, same in zip(tensors(moved), tensors(packed), strict=True))
    first.buffer.zero_()
    assert all(one.any() for one in tensors(moved))
    assert {one.untyped_storage().data_ptr() for one in tensors(moved)} == {other.untyped_storage().data_ptr()}


def test_a_shared_half_is_kept_once():
    shared = torch.ones(2, 64)
    model = lora(gate_up=([shared, shared], [torch.zeros(4, 2), torch.zeros(4, 2)]))
    in_one_buffer(model, pin=False)
    first, second = model.loras["gate_up"].lora_a
    assert first.data_ptr() == second.data_ptr()
    assert torch.equal(first, shared)


def test_nothing_is_left_in_the_file(tmp_path):
    """What safetensors gives out maps the file: a file that changes afterwards changes what was not copied."""
    path = tmp_path / "adapter.safetensors"
    save_file({"a": torch.ones(8, 8), "b": torch.ones(8, 8)}, path)
    with safe_open(path, framework="pt") as file:
        model = lora(one=(file.get_tensor("a"), file.get_tensor("b")))
    in_one_buffer(model, pin=False)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 512)
        file.write(bytes(512))
    assert all(torch.equal(one, torch.ones(8, 8)) for one in tensors(model))
