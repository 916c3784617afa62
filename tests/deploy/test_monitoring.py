"""Every metric that the dashboard asks for exists."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from router.metrics import RouterMetrics
from serving.applications.metrics import Scraper
from serving.replica.request_metrics import ReplicaMetrics
from tests.support import ROOT

DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
METRIC = re.compile(r"\b(?:vllm:|learnware_)[a-z_]+")


def series_of(registry: CollectorRegistry) -> set[str]:
    """Names that samples of the registry's metrics can have, before any was observed."""
    names = set()
    for family in registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + ending for ending in endings}
    return names


def vllm_series() -> set[str]:
    """The names in the installed vLLM's source: creating its collectors takes a whole engine configuration."""
    import vllm

    source = (Path(vllm.__file__).parent / "v1/metrics/loggers.py").read_text(encoding="utf-8")
    names = set(re.findall(r'name\s*=\s*"(vllm:[a-z_]+)"', source))
    assert len(names) > 20
    return {name + ending for name in names for ending in ("", "_total", "_bucket", "_sum", "_count")}


def scrape_series() -> set[str]:
    async def one() -> list[str | BaseException]:
        return ["# replica a\n"]

    text = asyncio.run(Scraper({"engine": one}, None).scrape())
    return set(re.findall(r"^(learnware_\w+)", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def known() -> set[str]:
    router, replica = CollectorRegistry(), CollectorRegistry()
    RouterMetrics(router)
    ReplicaMetrics(replica)
    return series_of(router) | series_of(replica) | vllm_series() | scrape_series()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_metrics_that_exist(panel: dict[str, Any], known: set[str]) -> None:
    for target in panel["targets"]:
        asked = set(METRIC.findall(target["expr"]))
        assert asked
        assert asked <= known


def test_the_dashboard_shows_every_metric_of_the_project(known: set[str]) -> None:
    shown = {name for panel in PANELS for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known if name.startswith("learnware_")}
    missing = ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert missing == set()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))


def test_prometheus_scrapes_the_endpoint_in_more_time_than_a_silent_replica_takes() -> None:
    from serving.applications.metrics import REPLICA_TIMEOUT_S, ROUTE_PREFIX

    (job,) = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["metrics_path"] == ROUTE_PREFIX
    assert float(job["scrape_timeout"].removesuffix("s")) > REPLICA_TIMEOUT_S
