"""Prometheus metrics of adapter paging, read from a replica's newest reports at each scrape."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.paging.residency import Residency
from specs.engine_name import split_engine_name


class PagingState(NamedTuple):
    """The state of adapter paging on one engine replica, as its front end knows it."""

    residency: Residency
    served: Collection[str]
    """Engine names of the served learnwares."""
    waiting: int
    """Number of requests whose adapter is on its way into host memory."""


class PagingCollector(Collector):
    """Collects the paging metrics of one engine replica. `state` is called at each scrape and returns None while the
    engine starts."""

    def __init__(self, state: Callable[[], PagingState | None]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of the newest reports; none while there is no report."""
        state = self._state()
        if state is None or state.residency.worker is None:
            return
        yield from _tiers(state)
        yield from _counts(state.residency.worker)
        yield from _waiting(state)


def _tiers(state: PagingState) -> Iterator[Metric]:
    tiers = state.residency.tiers
    listed = GaugeMetricFamily(
        "learnware_adapter_tier",
        "1 for the fastest tier that holds a learnware's adapter; one on disk alone is not listed.",
        labels=["learnware", "version", "tier"],
    )
    for name, tier in tiers.items():
        learnware, version = split_engine_name(name)
        listed.add_metric([learnware, version, tier], 1)
    yield listed
    counted = GaugeMetricFamily(
        "learnware_adapters",
        "Adapters by the fastest tier that holds them; disk: of learnwares served.",
        labels=["tier"],
    )
    for tier in ("device", "host"):
        counted.add_metric([tier], sum(one == tier for one in tiers.values()))
    counted.add_metric(["disk"], sum(name not in tiers for name in state.served))
    yield counted


def _counts(report: Mapping[str, Any]) -> Iterator[Metric]:
    device, host = report["device_counts"], report["host_counts"]
    by_tier = {
        "loads": ("Adapters brought into a tier.", device["loads"], host["reads"]),
        "load_seconds": ("Time to bring adapters into a tier.", device["load_seconds"], host["read_seconds"]),
        "load_bytes": ("Bytes brought into a tier.", device["load_bytes"], host["read_bytes"]),
        "hits": (
            "device: adapters that a batch needed and a slot held; host: requests whose adapter was in host memory.",
            device["hits"],
            report["host_hits"],
        ),
        "evictions": ("Adapters that made room for others.", device["evictions"], report["host_evictions"]),
    }
    for name, (text, on_device, in_host) in by_tier.items():
        family = CounterMetricFamily(f"learnware_adapter_{name}", text, labels=["tier"])
        family.add_metric(["device"], on_device)
        family.add_metric(["host"], in_host)
        yield family
    yield CounterMetricFamily(
        "learnware_adapter_load_failures", "Adapters that could not be read.", value=host["failures"]
    )
    yield CounterMetricFamily(
        "learnware_adapter_disk_reads_in_step",
        "Adapters that a step of the engine had to read from disk itself.",
        value=device["disk_reads_in_step"],
    )
    size = GaugeMetricFamily("learnware_adapter_bytes", "Bytes of the adapters in a tier.", labels=["tier"])
    size.add_metric(["device"], report["slot_bytes"])
    size.add_metric(["host"], sum(report["host"].values()))
    yield size
    yield GaugeMetricFamily(
        "learnware_adapter_host_budget_bytes", "Host memory that adapters may take.", value=report["host_budget"]
    )
    yield GaugeMetricFamily(
        "learnware_adapter_slots", "Adapters that the device holds at most.", value=len(report["slots"])
    )
    yield GaugeMetricFamily(
        "learnware_adapters_being_read", "Adapters on their way into host memory.", value=report["host_waiting"]
    )


def _waiting(state: PagingState) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "learnware_waiting_requests",
        "Requests that wait, by what for: that their adapter is in host memory, a slot for it, an adapter that drains, "
        "a seat in the batch, or that a grammar is compiled (parked).",
        labels=["reason"],
    )
    waiting.add_metric(["host_memory"], state.waiting)
    scheduler = state.residency.scheduler
    for reason, count in (scheduler["waiting"] if scheduler is not None else {}).items():
        waiting.add_metric([reason], count)
    yield waiting
    if scheduler is not None:
        yield GaugeMetricFamily(
            "learnware_adapters_draining", "Adapters that make room for others.", value=scheduler["draining"]
        )
        yield CounterMetricFamily(
            "learnware_aged_out_requests", "Requests that ran after they had aged out.", value=scheduler["aged_out"]
        )
