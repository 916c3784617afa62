"""The Prometheus metrics of adapter paging, read from a replica's newest reports at each scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.paging.residency import Residency
from serving.paging.settings import VERSION_MARK


class PagingCollector(Collector):
    """One engine replica's paging. `residency` is asked at each scrape: None while the engine starts."""

    def __init__(self, residency: Callable[[], Residency | None]) -> None:
        self._residency = residency

    def collect(self) -> Iterator[Metric]:
        known = self._residency()
        if known is None or known.worker is None:
            return
        tiers = GaugeMetricFamily(
            "learnware_adapter_tier",
            "1 for the fastest tier that holds a learnware's adapter; one on disk alone is not listed.",
            labels=["learnware", "version", "tier"],
        )
        for name, tier in known.tiers.items():
            learnware, _, version = name.partition(VERSION_MARK)
            tiers.add_metric([learnware, version, tier], 1)
        yield tiers
        yield from _counts(known)
        if known.scheduler is not None:
            yield from _waiting(known)


def _counts(known: Residency) -> Iterator[Metric]:
    report = known.worker
    assert report is not None
    device, host = report["device_counts"], report["host_counts"]
    by_tier = {
        "loads": ("Adapters brought into a tier.", device["loads"], host["reads"]),
        "load_seconds": ("Time to bring adapters into a tier.", device["load_seconds"], host["read_seconds"]),
        "load_bytes": ("Bytes brought into a tier.", device["load_bytes"], host["read_bytes"]),
        "hits": ("Adapters that were asked for and in the tier.", device["hits"], report["host_hits"]),
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
    yield GaugeMetricFamily(
        "learnware_adapter_host_bytes", "Host memory that adapters take.", value=sum(report["host"].values())
    )
    yield GaugeMetricFamily(
        "learnware_adapter_host_budget_bytes", "Host memory that adapters may take.", value=report["host_budget"]
    )


def _waiting(known: Residency) -> Iterator[Metric]:
    assert known.scheduler is not None
    assert known.worker is not None
    waiting = GaugeMetricFamily(
        "learnware_waiting_requests",
        "Requests that wait in the engine, by what for: a slot for their adapter, an adapter that drains, a seat in "
        "the batch, or that a grammar is compiled (parked).",
        labels=["reason"],
    )
    for reason, count in known.scheduler["waiting"].items():
        waiting.add_metric([reason], count)
    yield waiting
    yield GaugeMetricFamily(
        "learnware_adapters_being_read", "Adapters on their way into host memory.", value=known.worker["host_waiting"]
    )
    yield GaugeMetricFamily(
        "learnware_adapters_draining", "Adapters that make room for others.", value=known.scheduler["draining"]
    )
    yield CounterMetricFamily(
        "learnware_aged_out_requests", "Requests that ran after they had aged out.", value=known.scheduler["aged_out"]
    )
