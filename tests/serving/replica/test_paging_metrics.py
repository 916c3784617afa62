"""The metrics of adapter paging: every number stands for what the reports say."""

from prometheus_client import CollectorRegistry, generate_latest

from serving.paging.residency import Residency
from serving.replica.paging_metrics import PagingCollector, PagingState

WORKER = {
    "slots": [3, None, 1],
    "names": {"1": "a@11", "2": "b@22", "3": "c@33"},
    "host": {"1": 100, "2": 200},
    "slot_bytes": 400,
    "host_budget": 1000,
    "host_waiting": 2,
    "host_hits": 7,
    "host_misses": 5,
    "host_evictions": 1,
    "device_counts": {
        "loads": 9,
        "hits": 30,
        "evictions": 6,
        "load_seconds": 0.5,
        "load_bytes": 900,
        "disk_reads_in_step": 0,
    },
    "host_counts": {"reads": 4, "read_seconds": 0.25, "read_bytes": 800, "failures": 1},
}
SCHEDULER = {"waiting": {"slot": 3, "draining": 0, "seat": 2, "parked": 1}, "draining": 1, "aged_out": 8, "running": 4}


def values(worker=WORKER, scheduler=SCHEDULER):
    registry = CollectorRegistry()
    residency = Residency(1)
    state = PagingState(residency, ["a@11", "b@22", "c@33", "d@44"], waiting=6)
    registry.register(PagingCollector(lambda: state))
    if worker is not None:
        residency.note_worker(0, worker)
    residency.scheduler = scheduler
    return lambda name, **labels: registry.get_sample_value(name, labels)


def test_adapters_by_tier():
    value = values()
    assert {tier: value("learnware_adapters", tier=tier) for tier in ("device", "host", "disk")} == {
        "device": 2,
        "host": 1,
        "disk": 1,
    }
    assert value("learnware_adapter_tier", learnware="a", version="11", tier="device") == 1
    assert value("learnware_adapter_tier", learnware="b", version="22", tier="host") == 1
    assert value("learnware_adapter_tier", learnware="d", version="44", tier="host") is None


def test_counts_and_bytes_by_tier():
    value = values()
    wanted = {
        "learnware_adapter_loads_total": (9, 4),
        "learnware_adapter_load_seconds_total": (0.5, 0.25),
        "learnware_adapter_load_bytes_total": (900, 800),
        "learnware_adapter_hits_total": (30, 7),
        "learnware_adapter_evictions_total": (6, 1),
        "learnware_adapter_bytes": (400, 300),
    }
    assert {name: (value(name, tier="device"), value(name, tier="host")) for name in wanted} == wanted
    assert value("learnware_adapter_host_budget_bytes") == 1000
    assert value("learnware_adapter_slots") == 3
    assert value("learnware_adapters_being_read") == 2
    assert value("learnware_adapter_load_failures_total") == 1
    assert value("learnware_adapter_disk_reads_in_step_total") == 0


def test_waiting_by_reason():
    value = values()
    reasons = {"host_memory": 6, "slot": 3, "draining": 0, "seat": 2, "parked": 1}
    assert {reason: value("learnware_waiting_requests", reason=reason) for reason in reasons} == reasons
    assert value("learnware_adapters_draining") == 1
    assert value("learnware_aged_out_requests_total") == 8


def test_without_our_scheduler_there_are_the_workers_metrics():
    value = values(scheduler=None)
    assert value("learnware_waiting_requests", reason="host_memory") == 6
    assert value("learnware_waiting_requests", reason="slot") is None
    assert value("learnware_adapters_draining") is None


def test_before_the_engine_has_started_there_is_nothing():
    registry = CollectorRegistry()
    registry.register(PagingCollector(lambda: None))
    assert generate_latest(registry) == b""
