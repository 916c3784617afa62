"""The table of slots: least recently used first, residents of a batch before newcomers, pinned ones never."""

import random

import pytest

from serving.paging.slots import SlotTable


def test_the_least_recently_used_leaves():
    table = SlotTable(2)
    assert table.use([1]) == [1]
    assert table.use([2]) == [2]
    assert table.use([1]) == []
    assert table.use([3]) == [3]
    assert set(table.residents) == {1, 3}
    assert (table.loads, table.hits) == (3, 1)


def test_what_a_batch_needs_is_never_evicted_for_another_of_the_batch():
    table = SlotTable(3)
    table.use([1, 2, 3])
    assert table.use([1, 4, 5]) == [4, 5]
    assert set(table.residents) == {1, 4, 5}


def test_loads_are_never_more_than_needed():
    generator = random.Random(1)
    table = SlotTable(4)
    for _ in range(500):
        batch = set(generator.sample(range(12), generator.randint(0, 4)))
        missing = batch - set(table.residents)
        before = table.loads
        assert set(table.use(batch)) == missing
        assert table.loads - before == len(missing)
        assert batch <= set(table.residents)
        assert len(table.residents) <= 4


def test_a_pinned_adapter_keeps_its_slot_until_it_is_removed():
    table = SlotTable(2)
    table.pinned.add(1)
    table.use([1])
    for adapter in range(2, 6):
        table.use([adapter])
    assert set(table.residents) == {1, 5}
    assert table.pinned_residents == {1}
    with pytest.raises(ValueError, match="2 adapters, and there are 2 slots, 1 of them pinned"):
        table.use([2, 3])
    table.remove(1)
    assert table.use([2, 3]) == [2, 3]


def test_more_adapters_than_slots_are_refused():
    with pytest.raises(ValueError, match="needs 3 adapters"):
        SlotTable(2).use([1, 2, 3])


def test_a_removed_adapter_frees_its_slot():
    table = SlotTable(2)
    table.use([1, 2])
    table.remove(1)
    table.remove(9)
    assert table.residents == (2,)
    table.use([3])
    assert set(table.residents) == {2, 3}
