"""The tier of each adapter of an engine, as the front end knows it from the reports of workers and scheduler."""

from collections.abc import Mapping
from typing import Any, Literal

Tier = Literal["device", "host"]
"""The fastest place that holds an adapter. An adapter on disk alone has none."""


class Residency:
    """The newest report of every worker (`serving.engine.worker_manager`) and of the scheduler. With several workers
    (tensor parallelism) an adapter is in a tier when it is there in all of them, and counts are the first worker's."""

    def __init__(self, ranks: int) -> None:
        self._workers: list[Mapping[str, Any] | None] = [None] * ranks
        self._tiers: dict[str, Tier] | None = {}
        self.scheduler: Mapping[str, Any] | None = None

    def note_worker(self, rank: int, report: Mapping[str, Any]) -> None:
        """Replaces the report of the worker with this rank."""
        self._workers[rank] = report
        self._tiers = None

    def note_scheduler(self, report: Mapping[str, Any]) -> None:
        """Replaces the scheduler's report."""
        self.scheduler = report

    @property
    def worker(self) -> Mapping[str, Any] | None:
        """The first worker's report, None before there is one."""
        return self._workers[0]

    @property
    def slots(self) -> int:
        """Number of adapters that the device holds at most; 0 before there is a report."""
        return len(self._workers[0]["slots"]) if self._workers[0] is not None else 0

    @property
    def tiers(self) -> Mapping[str, Tier]:
        """The fastest tier that holds each adapter, by its engine name; adapters on disk alone are left out."""
        if self._tiers is None:
            self._tiers = _tiers([report for report in self._workers if report is not None], len(self._workers))
        return self._tiers


def _tiers(reports: list[Mapping[str, Any]], ranks: int) -> dict[str, Tier]:
    if len(reports) < ranks:
        return {}
    device = set.intersection(*({str(one) for one in r["slots"] if one is not None} for r in reports))
    memory = set.intersection(
        *({str(one) for one in r["slots"] if one is not None} | r["host"].keys() for r in reports)
    )
    names: Mapping[str, str] = reports[0]["names"]
    return {names[number]: "device" if number in device else "host" for number in memory if number in names}
