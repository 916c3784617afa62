"""What an operator sees of a running stack: ports, metrics, the loss of a router."""

import concurrent.futures
import time

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.support import QUESTIONS, Stack, chat, metric

pytestmark = pytest.mark.e2e

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
RAY_OWN = ("raylet", "gcs_server", "agent", "ray::", "log_monitor", "monitor.py")
"""Processes with gRPC listeners of Ray's own, which the README names; loopback or not is Ray's business."""


def test_no_port_of_the_stack_is_off_loopback(stack: Stack):
    family = {process.pid: process for process in stack.processes()}
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in family]
    ports = {c.laddr.port for c in listening}
    assert stack.port in ports
    off = {
        (family[c.pid].name(), " ".join(family[c.pid].cmdline())[:60], c.laddr.port)
        for c in listening
        if c.laddr.ip not in LOOPBACK
    }
    foreign = {entry for entry in off if not any(mark in " ".join(entry[:2]) for mark in RAY_OWN)}
    assert not foreign
    # Ray's workers may hold a gRPC listener, but nothing there speaks HTTP: not a replica, not a metrics endpoint.
    for _, command, port in off:
        try:
            status = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=2).status_code
        except httpx.HTTPError:
            continue
        pytest.fail(f"{command} answers HTTP {status} on port {port}, which is open to the network")


def test_one_scrape_shows_every_process(http: httpx.Client):
    before = http.get("/metrics").text
    learnware = chat(http, QUESTIONS[0].text).headers["x-learnware"]
    chat(http, "Write a haiku about rain.")
    text = http.get("/metrics").text
    names = {family.name for family in text_string_to_metric_families(text)}
    wanted = {
        "learnware_requests",
        "learnware_fallbacks",
        "learnware_route_seconds",
        "learnware_match_score",
        "learnware_match_confidence",
        "vllm:num_requests_running",
        "haproxy_process_uptime_seconds",
    }
    assert wanted <= names, wanted - names

    def grown(name: str, **labels: str) -> float:
        return metric(text, name, **labels) - metric(before, name, **labels)

    assert grown("learnware_requests_total", learnware=learnware, reason="matched") == 1
    assert grown("learnware_fallbacks_total", reason="base:low-confidence") == 1
    assert grown("learnware_route_seconds_count") == 2
    routers = {line for line in text.splitlines() if line.startswith("learnware_scrape_success") and '"router"' in line}
    assert len(routers) == 2
    assert all(line.endswith(" 1") for line in routers)


def test_the_loss_of_one_router_loses_no_request(stack: Stack, http: httpx.Client):
    routers = stack.routers()
    assert len(routers) == 2
    killed_at: list[float] = []

    def ask(number: int) -> httpx.Response:
        if number == 4:
            routers[0].kill()
            killed_at.append(time.monotonic())
        return chat(http, QUESTIONS[number % 3].text, max_tokens=1)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        responses = list(pool.map(ask, range(24)))
    assert killed_at
    assert {response.status_code for response in responses} == {200}
    assert all(response.headers["x-learnware"] for response in responses)


def test_without_any_router_requests_fall_through_to_the_base_and_routing_comes_back(stack: Stack, http: httpx.Client):
    for router in stack.routers():
        router.kill()
    reasons = set()
    deadline = time.monotonic() + 60
    while "matched" not in reasons or not any(reason.startswith("base:") for reason in reasons):
        response = chat(http, QUESTIONS[0].text, max_tokens=1)
        assert response.status_code == 200, response.text
        reasons.add(response.headers["x-learnware-reason"])
        assert time.monotonic() < deadline, f"routing did not come back; reasons seen: {reasons}"
        time.sleep(0.2)
    assert reasons <= {"matched", "base:no-choice", "base:router-unreachable"}
