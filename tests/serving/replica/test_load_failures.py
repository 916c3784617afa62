"""An adapter that cannot be loaded is counted while it fails, and the market is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serving.replica.load_failures import REPORT_AGAIN_S, LoadFailures
from serving.replica.request_metrics import UNSERVED, ReplicaMetrics
from specs.errors import AdapterUnavailable
from specs.market.catalogue import Entry

A, B = (Entry(name, 1, name * 64, Path(name)) for name in "ab")
SERVED = (A.engine_name, B.engine_name)


class Gate:
    """Stands for the gate: which adapters cannot be loaded, and what was held."""

    def __init__(self) -> None:
        self.broken = {A.engine_name}
        self.held: list[str] = []

    @asynccontextmanager
    async def hold(self, entry: Entry) -> AsyncIterator[None]:
        if entry.engine_name in self.broken:
            raise AdapterUnavailable("no such file")
        self.held.append(entry.engine_name)
        yield
        self.held.remove(entry.engine_name)


async def ask(failures: LoadFailures, gate: Gate, entry: Entry) -> bool:
    hold: AbstractAsyncContextManager[None] = gate.hold(entry)
    try:
        async with failures.watching(entry, hold):
            assert gate.held == [entry.engine_name]
    except AdapterUnavailable:
        return False
    finally:
        await asyncio.sleep(0)
    assert gate.held == []
    return True


async def test_it_is_counted_while_it_fails():
    gate, failures = Gate(), LoadFailures(None)
    assert not await ask(failures, gate, A)
    assert await ask(failures, gate, B)
    assert failures.count(SERVED) == 1
    gate.broken.clear()
    assert await ask(failures, gate, A)
    assert failures.count(SERVED) == 0


async def test_one_that_left_the_catalogue_counts_no_more():
    gate, failures = Gate(), LoadFailures(None)
    await ask(failures, gate, A)
    assert failures.count([B.engine_name]) == failures.count(SERVED) == 0


async def test_the_market_is_told_once_and_again_while_it_fails():
    told: list[tuple[str, str]] = []
    now = 0.0

    async def report(entry: Entry, reason: str) -> None:
        told.append((entry.id, reason))
        raise RuntimeError("nobody is there")  # costs nothing

    gate, failures = Gate(), LoadFailures(report, lambda: now)
    for _ in range(5):
        await ask(failures, gate, A)
    assert told == [("a", "no such file")]
    now = REPORT_AGAIN_S
    await ask(failures, gate, A)
    assert len(told) == 2


async def test_another_failure_while_it_runs_is_not_blamed_on_the_adapter():
    failures = LoadFailures(None)
    with pytest.raises(AdapterUnavailable):
        async with failures.watching(B, Gate().hold(B)):
            raise AdapterUnavailable("something else")
    assert failures.count(SERVED) == 0


def test_what_is_not_served_is_a_metric_by_reason():
    registry = CollectorRegistry()
    metrics = ReplicaMetrics(registry)
    metrics.watch_unserved(lambda: {"unfit": 2, "not-loaded": 1})
    values = {reason: registry.get_sample_value("learnware_unserved", {"reason": reason}) for reason in UNSERVED}
    assert values == {"unfit": 2, "quarantined": 0, "broken": 0, "duplicate": 0, "not-loaded": 1}
