"""Which tier holds an adapter, from the workers' reports."""

from typing import Any

from serving.paging.residency import Residency


def report(slots: list[int | None], host: dict[str, int]) -> dict[str, Any]:
    names = {"1": "a@1", "2": "b@1", "3": "c@1"}
    return {"slots": slots, "host": host, "names": names}


def test_the_fastest_tier_counts():
    residency = Residency(1)
    assert dict(residency.tiers) == {}
    assert residency.slots == 0
    residency.note_worker(0, report([2, None], {"2": 10, "3": 10}))
    assert residency.tiers == {"b@1": "device", "c@1": "host"}
    assert residency.slots == 2
    residency.note_worker(0, report([None, None], {"3": 10}))
    assert residency.tiers == {"c@1": "host"}


def test_an_adapter_is_where_all_workers_have_it():
    residency = Residency(2)
    residency.note_worker(0, report([1, 2], {"3": 10}))
    assert residency.tiers == {}, "one worker has not reported"
    residency.note_worker(1, report([1, None], {"2": 10}))
    assert residency.tiers == {"a@1": "device", "b@1": "host"}


def test_numbers_without_a_name_are_left_out():
    """vLLM's own adapters, for warm-up."""
    residency = Residency(1)
    residency.note_worker(0, report([99, 1], {}))
    assert residency.tiers == {"a@1": "device"}
