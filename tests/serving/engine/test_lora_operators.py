"""Our CPU operators against a naive fp32 loop, and the defect in vLLM's own that they are there for."""

import warnings

import pytest
import torch
from torch import Tensor

from serving.engine.operators import MIN_RUN, NO_ADAPTER, LayerWeights, Run, add_lora, plan_batch

SLOTS, RANK, FEATURES = 4, 8, 48
OUTPUTS = (32, 16, 16)


def layer(ranks: list[int], dtype: torch.dtype = torch.bfloat16) -> LayerWeights:
    """A full layer: slot s holds an adapter of rank ranks[s] (0: none), written through the views that vLLM gets."""
    torch.manual_seed(0)
    weights = LayerWeights.zeros(len(ranks), RANK, FEATURES, OUTPUTS, dtype)
    a_stacked, b_stacked = weights.stacks()
    for slot, rank in enumerate(ranks):
        for a, b in zip(a_stacked, b_stacked, strict=True):
            a[slot, 0, :rank] = torch.randn(rank, FEATURES) / 7
            b[slot, 0, :, :rank] = torch.randn(b.shape[2], rank) / 3
        weights.mark(slot, [rank > 0] * len(OUTPUTS))
    return weights


def naive(y: Tensor, x: Tensor, weights: LayerWeights, slots: list[int]) -> Tensor:
    """Row by row, in fp32, from vLLM's views."""
    a_stacked, b_stacked = weights.stacks()
    result = y.float().clone()
    for row, slot in enumerate(slots):
        start = 0
        for a, b in zip(a_stacked, b_stacked, strict=True):
            if slot != NO_ADAPTER:
                result[row, start : start + b.shape[2]] += b[slot, 0].float() @ (a[slot, 0].float() @ x[row].float())
            start += b.shape[2]
    return result


def runs_of(slots: list[int]) -> list[Run]:
    values, lengths = torch.unique_consecutive(torch.tensor(slots), return_counts=True)
    runs, start = [], 0
    for slot, length in zip(values.tolist(), lengths.tolist(), strict=True):
        runs.append(Run(start, start + length, slot))
        start += length
    return runs


BATCHES = {
    "decode, one adapter": [2],
    "decode, every slot and the base": [3, NO_ADAPTER, 0, 2, NO_ADAPTER, 1, 3],
    "decode, base rows first and last": [NO_ADAPTER, NO_ADAPTER, 3, 1, NO_ADAPTER],
    "prefill, one adapter": [1] * 40,
    "prefill, adapters and base": [0] * 20 + [NO_ADAPTER] * 25 + [3] * 40,
    "decode rows beside prefills": [
        0,
        NO_ADAPTER,
        3,
        *[2] * (MIN_RUN + 4),
        NO_ADAPTER,
        1,
        *[NO_ADAPTER] * 20,
        3,
        NO_ADAPTER,
    ],
    "runs at the threshold": [0] * (MIN_RUN - 1) + [1] * MIN_RUN + [2] * (MIN_RUN + 1),
    "base only": [NO_ADAPTER] * 5,
}


@pytest.mark.parametrize("slots", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("ranks", [[8, 8, 8, 8], [8, 4, 2, 8], [8, 0, 4, 8]], ids=["one rank", "mixed ranks", "a hole"])
@pytest.mark.parametrize(
    ("dtype", "near"),
    [(torch.bfloat16, 0.02), (torch.float32, 1e-5), (torch.float16, 0.01)],
    ids=["bf16", "fp32", "fp16"],
)
def test_each_row_gets_its_own_adapter(slots: list[int], ranks: list[int], dtype: torch.dtype, near: float) -> None:
    weights = layer(ranks, dtype)
    x = torch.randn(len(slots), FEATURES, dtype=dtype)
    before = torch.randn(len(slots), sum(OUTPUTS), dtype=dtype)
    y = before.clone()

    add_lora(y, x, weights, plan_batch(runs_of(slots)), OUTPUTS)

    base = torch.tensor([slot == NO_ADAPTER for slot in slots])
    assert torch.equal(y[base], before[base]), "rows without an adapter must stay as they are, to the last bit"
    torch.testing.assert_close(y.float(), naive(before, x, weights, slots), rtol=near, atol=near)
    if not base.all() and ranks == [8, 8, 8, 8]:
        assert not torch.equal(y[~base], before[~base])


def test_a_row_is_the_same_alone_and_in_a_mixed_batch() -> None:
    weights, slots = layer([8, 4, 2, 8]), [3, NO_ADAPTER, 0, 2, 1, *[1] * 20]
    x = torch.randn(len(slots), FEATURES).bfloat16()
    together = torch.zeros(len(slots), sum(OUTPUTS)).bfloat16()
    add_lora(together, x, weights, plan_batch(runs_of(slots)), OUTPUTS)
    for row, slot in enumerate(slots):
        alone = torch.zeros(1, sum(OUTPUTS)).bfloat16()
        add_lora(alone, x[row : row + 1], weights, plan_batch([Run(0, 1, slot)]), OUTPUTS)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0.02, atol=0.01)


def test_a_slice_without_weights_is_left_alone() -> None:
    weights = layer([8, 8, 8, 8])
    weights.stacks()[1][1].zero_()
    for slot in range(SLOTS):
        weights.mark(slot, [True, False, True])
    y = torch.zeros(3, sum(OUTPUTS)).bfloat16()
    add_lora(y, torch.randn(3, FEATURES).bfloat16(), weights, plan_batch([Run(0, 3, 1)]), OUTPUTS)
    assert not y[:, 32:48].any()
    assert y[:, :32].any()
    assert y[:, 48:].any()


def test_padded_outputs_offsets_scale_and_fp32_results() -> None:
    weights = LayerWeights.zeros(2, RANK, FEATURES, (20,), torch.bfloat16)
    (a,), (b,) = weights.stacks()
    a[1], b[1] = torch.ones(RANK, FEATURES) / FEATURES, torch.ones(20, RANK) / RANK
    weights.mark(1, [True])
    y = torch.zeros(2, 30)
    plan = plan_batch([Run(0, 2, 1)])
    add_lora(y, torch.ones(2, FEATURES).bfloat16(), weights, plan, (16,), offset=4, scale=2.0)
    torch.testing.assert_close(y[:, 4:20], torch.full((2, 16), 2.0), rtol=0.02, atol=0)
    assert not y[:, :4].any()
    assert not y[:, 20:].any()


def test_a_rank_that_is_no_multiple_of_four() -> None:
    weights = LayerWeights.zeros(2, 6, 10, (7,), torch.float32)
    (a,), (b,) = weights.stacks()
    a.normal_()
    b.normal_()
    weights.mark(1, [True])
    x, y = torch.randn(5, 10), torch.zeros(5, 7)
    add_lora(y, x, weights, plan_batch([Run(0, 5, 1)]), (7,), scale=0.5)
    torch.testing.assert_close(y, 0.5 * x @ a[1, 0].t() @ b[1, 0].t(), rtol=1e-5, atol=1e-5)


def test_columns_of_a_wider_result() -> None:
    """Of which the kernels take a copy: they write into contiguous fp32 alone."""
    weights = layer([8, 8, 8, 8], torch.float32)
    x, wide = torch.randn(3, FEATURES), torch.zeros(3, 100)
    add_lora(wide[:, 10:90], x, weights, plan_batch(runs_of([1, NO_ADAPTER, 3])), OUTPUTS, offset=4)
    expected = naive(torch.zeros(3, sum(OUTPUTS)), x, weights, [1, NO_ADAPTER, 3])
    torch.testing.assert_close(wide[:, 14 : 14 + sum(OUTPUTS)], expected, rtol=1e-5, atol=1e-5)
    assert not wide[:, :14].any()
    assert not wide[:, 14 + sum(OUTPUTS) :].any()


def test_non_finite_rows_stay_visible_and_among_themselves() -> None:
    weights = layer([8, 8, 8, 8], torch.float32)
    x = torch.randn(3, FEATURES)
    x[1, 5] = float("nan")
    y = torch.zeros(3, sum(OUTPUTS))
    add_lora(y, x, weights, plan_batch(runs_of([1, 1, 3])), OUTPUTS)
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


def test_the_plan_takes_long_runs_alone_and_short_ones_by_slot() -> None:
    slots = [3, NO_ADAPTER, 0, *[2] * MIN_RUN, NO_ADAPTER, *[NO_ADAPTER] * 20, 3, NO_ADAPTER]
    plan = plan_batch(runs_of(slots))
    assert plan.long == (Run(3, 3 + MIN_RUN, 2),)
    assert plan.short is not None
    assert [array.tolist() for array in plan.short] == [[2, 0, 24 + MIN_RUN], [0, 1, 3], [0, 3]]
    assert plan.slots == 0b1101
    rows = {
        slot: (list(range(len(slots)))[part] if isinstance(part, slice) else part.tolist())
        for slot, part in plan.parts()
    }
    assert rows == {2: list(range(3, 3 + MIN_RUN)), 0: [2], 3: [0, 24 + MIN_RUN]}


def test_a_copy_of_other_stacks_computes_the_same() -> None:
    weights = layer([8, 8, 8, 8])
    a_stacked, b_stacked = (tuple(stack.contiguous() for stack in stacks) for stacks in weights.stacks())
    copied = LayerWeights.of_stacks(a_stacked, b_stacked)
    x = torch.randn(3, FEATURES).bfloat16()
    plan = plan_batch(runs_of([1, NO_ADAPTER, 3]))
    one, other = torch.zeros(3, sum(OUTPUTS)).bfloat16(), torch.zeros(3, sum(OUTPUTS)).bfloat16()
    add_lora(one, x, weights, plan, OUTPUTS)
    add_lora(other, x, copied, plan, OUTPUTS)
    assert torch.equal(one, other)


def test_stock_operators_alter_base_rows() -> None:
    """vLLM 0.29's own: index −1 wraps around to the last slot. When this fails, vLLM is fixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
        from vllm.lora.ops.torch_ops import lora_ops
    weights = layer([8, 8, 8, 8])
    (a, *_), (b, *_) = weights.stacks()
    x, slots = torch.randn(3, FEATURES).bfloat16(), torch.tensor([0, NO_ADAPTER, 1])
    shrunk = torch.zeros(3, RANK)
    lora_ops.bgmv_shrink(x, a, shrunk, slots, 1.0)
    stock = torch.zeros(3, OUTPUTS[0]).bfloat16()
    lora_ops.bgmv_expand(shrunk, b, stock, slots, add_inputs=True)
    assert stock[1].any()

    ours = torch.zeros(3, sum(OUTPUTS)).bfloat16()
    add_lora(ours, x, weights, plan_batch(runs_of(slots.tolist())), OUTPUTS)
    assert not ours[1].any()
    torch.testing.assert_close(ours[[0, 2], : OUTPUTS[0]], stock[[0, 2]], rtol=0.02, atol=0.02)
