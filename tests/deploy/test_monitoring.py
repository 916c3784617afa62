"""Every metric that the dashboard and the alert rules ask for exists, and every alert leads into the playbook."""

import argparse
import asyncio
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from router.metrics import RouterMetrics
from serving.applications.metrics import Scraper
from serving.cli.decisions import add_parser
from serving.decisions.open_record import OpenRecord
from serving.decisions.queries import filters_of
from serving.paging.residency import Residency
from serving.replica.paging_metrics import PagingCollector, PagingState
from serving.replica.request_metrics import ReplicaMetrics
from serving.replica.usage_metrics import UsageMetrics
from tests.readmes import MAIN, quoted, section, table
from tests.support import ROOT

DASHBOARD = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = ROOT / "deploy/alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
PLAYBOOK = "From an alert to the decision"
"""Heading of the steps that every alert leads into."""
PLAYBOOK_ROWS = table(section(f"serving/{MAIN}", PLAYBOOK), "alert", "filter of step 2")
METRIC = re.compile(r"\b(?:vllm:|learnware_|haproxy_|process_)[a-z_]+")
EXPORTED = {
    "haproxy_backend_current_sessions",
    "haproxy_backend_retry_warnings_total",
    "haproxy_frontend_current_sessions",
    "haproxy_frontend_http_responses_total",
    "process_resident_memory_bytes",
}
"""Metrics of HAProxy's exporter and of prometheus_client; `tests/e2e/test_operation.py` looks for them in a scrape."""


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


def paging_state() -> PagingState:
    """The state of an engine that holds nothing."""
    counts = dict.fromkeys(("loads", "load_seconds", "load_bytes", "hits", "evictions", "disk_reads_in_step"), 0)
    reads = dict.fromkeys(("reads", "read_seconds", "read_bytes", "failures"), 0)
    report = {"device_counts": counts, "host_counts": reads, "host": {}, "slots": [None], "names": {}}
    numbers = ("host_hits", "host_evictions", "slot_bytes", "host_budget", "host_waiting")
    residency = Residency(1)
    residency.note_worker(0, report | dict.fromkeys(numbers, 0))
    residency.note_scheduler({"running": 0, "waiting": {"slot": 0}, "draining": 0, "aged_out": 0, "mean_wait": 0.0})
    return PagingState(residency, (), 0)


@pytest.fixture(scope="module")
def known() -> set[str]:
    router, replica = CollectorRegistry(), CollectorRegistry()
    RouterMetrics(router)
    ReplicaMetrics(replica)
    UsageMetrics(replica, "base-8b")
    replica.register(PagingCollector(paging_state))
    return series_of(router) | series_of(replica) | vllm_series() | scrape_series() | EXPORTED


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_metrics_that_exist(panel: dict[str, Any], known: set[str]) -> None:
    for target in panel["targets"]:
        asked = set(METRIC.findall(target["expr"]))
        assert asked
        assert asked <= known


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any], known: set[str]) -> None:
    asked = set(METRIC.findall(rule["expr"]))
    assert asked
    assert asked <= known
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"].keys() == {"summary", "what_to_do", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert (page, anchor) == (f"serving/{MAIN}", PLAYBOOK.lower().replace(" ", "-"))
    assert [row for row in PLAYBOOK_ROWS if rule["alert"] in quoted(row[0])], "the playbook does not say how to go on"


def test_the_playbook_knows_no_other_alerts_and_filters_by_what_there_is() -> None:
    alerts = [name for row in PLAYBOOK_ROWS for name in quoted(row[0])]
    assert sorted(alerts) == sorted(rule["alert"] for rule in RULES)
    reasons = {quoted(row[0])[0] for row in table(section(f"serving/{MAIN}", "Reasons"), "value", "meaning")}
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    commands = re.findall(r"learnware-serving (decisions [^\n>`]+)", section(f"serving/{MAIN}", PLAYBOOK))
    for row in PLAYBOOK_ROWS:
        commands += [f"decisions list {one}" for one in quoted(row[1]) if one.startswith("--")]
    assert len(commands) >= 10
    for command in commands:
        options = parser.parse_args(shlex.split(command))
        if getattr(options, "status", None) is not None:
            assert filters_of([("status", options.status)]).status is not None
        assert getattr(options, "reason", None) in {None, *reasons}


def test_the_playbook_has_five_steps_with_commands() -> None:
    steps = re.split(r"^\*\*(\d)\. ", section(f"serving/{MAIN}", PLAYBOOK), flags=re.MULTILINE)
    assert steps[1::2] == ["1", "2", "3", "4", "5"]
    assert all("\n```\n" in step for step in steps[2::2])
    kept = set(
        OpenRecord("an-id", "a-tenant", "/v1/completions", None, keeps_text=False).part(
            200, stream=False, complete=True, replica="r"
        )
    )
    (query,) = re.findall(r"\{(id, .*?)\}'", steps[4])
    assert set(query.split(", ")) <= kept


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_slowest_requests_are_found_as_the_playbook_says() -> None:
    (program,) = re.findall(r"jq -sc '(.*?)'", section(f"serving/{MAIN}", PLAYBOOK))
    times = [0.4, None, 2.5, 0.1, *(1 + number / 100 for number in range(20))]
    lines = "".join(json.dumps({"id": f"r{place}", "ttft_s": time}) + "\n" for place, time in enumerate(times))
    done = subprocess.run(["jq", "-sc", program], input=lines, capture_output=True, text=True, check=True)
    found = [json.loads(line)["ttft_s"] for line in done.stdout.splitlines()]
    assert found == sorted(time for time in times if time is not None)[-10:]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    for command in (["check", "rules", str(ALERTS)], ["check", "config", str(ROOT / "deploy/prometheus.yml")]):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


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
