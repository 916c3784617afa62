"""Host memory by bytes: the budget, what is evicted, leases; against a plain model with random operations."""

import pytest
from hypothesis import given, settings, strategies as st

from serving.paging.host import HostCache


def filled(budget: int, *sizes: int) -> HostCache[int, str]:
    """Adapters 0, 1, … of these sizes, each as costly as the others."""
    cache: HostCache[int, str] = HostCache(budget)
    for key, size in enumerate(sizes):
        assert cache.make_room(size)
        cache.put(key, f"adapter {key}", size, cost=1.0)
    return cache


def test_the_budget_is_never_passed():
    cache = filled(10, 4, 4)
    with pytest.raises(ValueError, match="4 bytes do not fit"):
        cache.put(2, "", 4, 1.0)
    assert cache.make_room(4)
    cache.put(2, "", 4, 1.0)
    assert cache.used <= 10
    assert cache.evictions == 1
    with pytest.raises(ValueError, match="at least one byte"):
        HostCache(0)


def test_what_is_asked_for_often_stays():
    cache = filled(3, 1, 1, 1)
    assert all(cache.use(1) for _ in range(3))
    cache.use(2)
    assert cache.make_room(1)
    assert 0 not in cache
    cache.put(3, "", 1, 1.0)
    cache.make_room(1)
    assert 1 in cache


def test_what_was_asked_for_often_long_ago_leaves_in_the_end():
    cache = filled(2, 1, 1)
    for _ in range(5):
        cache.use(0)
    for key in range(10, 40):
        cache.make_room(1)
        cache.put(key, "", 1, 1.0)
        cache.use(key)
        if 0 not in cache:
            return
    pytest.fail("five uses have outlived thirty newcomers")


def test_what_is_dear_to_read_and_small_stays():
    cache: HostCache[str, str] = HostCache(12)
    cache.put("large", "", 8, cost=1.0)
    cache.put("dear", "", 2, cost=5.0)
    cache.put("cheap", "", 2, cost=1.0)
    assert cache.make_room(2)
    assert "large" not in cache
    assert {"dear", "cheap"} <= set(cache.sizes())


def test_leased_adapters_are_never_evicted():
    cache = filled(3, 1, 1, 1)
    cache.lease(0)
    cache.lease(0)
    assert cache.make_room(2)
    assert set(cache.sizes()) == {0}
    assert not cache.make_room(3)
    assert set(cache.sizes()) == {0}, "evicted in vain"
    cache.release(0)
    assert not cache.make_room(3)
    cache.release(0)
    assert cache.make_room(3)
    with pytest.raises(KeyError):
        cache.release(0)


def test_a_lease_may_come_before_the_adapter():
    cache = filled(2, 1)
    cache.lease(7)
    cache.put(7, "early", 1, 1.0)
    assert cache.make_room(1)
    assert set(cache.sizes()) == {7}
    assert cache.leased == {7}


def test_requests_are_counted_and_looks_are_not():
    cache = filled(2, 1)
    assert cache.get(0) == "adapter 0"
    assert cache.get(1) is None
    assert (cache.hits, cache.misses) == (0, 0)
    assert cache.use(0)
    assert not cache.use(1)
    assert (cache.hits, cache.misses) == (1, 1)
    assert cache.remove(0)
    assert not cache.remove(0)
    assert cache.size(0) == cache.used == 0


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "use", "lease", "release", "remove"]), st.integers(0, 7), st.integers(1, 5)),
    max_size=80,
)


@given(OPERATIONS)
@settings(max_examples=100, deadline=None)
def test_tables_agree_whatever_is_done(operations):
    cache: HostCache[int, int] = HostCache(12)
    leases: list[int] = []
    for what, key, size in operations:
        kept = {one: cache.size(one) for one in leases if one in cache}
        if what == "put" and key not in cache:
            fits = sum(kept.values()) + size <= 12
            assert cache.make_room(size) == fits
            if fits:
                cache.put(key, key, size, cost=size)
        elif what == "use":
            cache.use(key)
        elif what == "lease":
            cache.lease(key)
            leases.append(key)
        elif what == "release" and key in leases:
            cache.release(key)
            leases.remove(key)
        elif what == "remove":
            cache.remove(key)
            kept.pop(key, None)
        assert kept.items() <= cache.sizes().items()
        cache.check_integrity()
