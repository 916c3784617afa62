"""What an operator sees of a running stack: ports, metrics, the loss of a router."""

import concurrent.futures
import time
from collections import Counter

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
        "process_resident_memory_bytes",
        "haproxy_backend_current_sessions",
        "haproxy_backend_retry_warnings",
        "haproxy_frontend_current_sessions",
        "haproxy_frontend_http_responses",
        "learnware_tokens",
        "learnware_tenant_first_token_seconds",
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


CONVERSATIONS = 128
TURNS = 8
AT_ONCE = httpx.Limits(max_connections=None)  # httpx's default lets 100 go at once


def conversation(number: int) -> list[dict[str, str]]:
    """Eight turns of the user that end with one of the questions; no two conversations share a turn."""
    asks = [f"Tell me one thing about the number {number * TURNS + turn}." for turn in range(TURNS - 1)]
    asks.append(f"{QUESTIONS[number % len(QUESTIONS)].text} ({number})")
    messages = [
        {"role": role, "content": text} for ask in asks for role, text in (("user", ask), ("assistant", "Yes."))
    ]
    return messages[:-1]


@pytest.mark.extra
@pytest.mark.timeout(700)  # 128 prompts of eight turns, on a processor
def test_a_burst_of_conversations_is_decided_on_or_refused_but_never_left_to_the_base(stack: Stack, http: httpx.Client):
    """Whoever is refused comes again when he was told to."""
    before = http.get("/metrics").text
    deadline = time.monotonic() + 600
    refused: list[int] = []

    def ask(number: int) -> httpx.Response:
        while True:
            response = chat(burst, "", messages=conversation(number), max_tokens=1)
            if response.status_code != 429 or time.monotonic() > deadline:
                return response
            assert response.json()["error"]["type"] == "rate_limit_error"
            refused.append(int(response.headers["retry-after"]))
            time.sleep(refused[-1])

    with (
        stack.client(600, limits=AT_ONCE) as burst,
        concurrent.futures.ThreadPoolExecutor(CONVERSATIONS) as pool,
    ):
        responses = list(pool.map(ask, range(CONVERSATIONS)))
    assert {response.status_code for response in responses} == {200}
    reasons = Counter(response.headers["x-learnware-reason"] for response in responses)
    print(
        f"{CONVERSATIONS} conversations at once: {dict(reasons)}; refused {len(refused)}, told {sorted(set(refused))} s"
    )
    assert not [reason for reason in reasons if reason.startswith(("base:router", "base:no-choice"))]
    assert all(seconds >= 1 for seconds in refused)
    after = http.get("/metrics").text
    for reason in ("base:router-deadline", "base:router-overload", "base:router-error"):
        assert metric(after, "learnware_choices_total", reason=reason) == metric(
            before, "learnware_choices_total", reason=reason
        )
    waited = metric(after, "learnware_route_wait_seconds_count") - metric(before, "learnware_route_wait_seconds_count")
    assert waited >= CONVERSATIONS


def test_without_any_router_auto_is_refused_and_named_models_are_not_and_routing_comes_back(
    stack: Stack, http: httpx.Client
):
    for router in stack.routers():
        router.kill()
    seen = set()
    deadline = time.monotonic() + 60
    while not {"matched", "refused"} <= seen:
        response = chat(http, QUESTIONS[0].text, max_tokens=1)
        if response.status_code == 200:
            seen.add(response.headers["x-learnware-reason"])
        else:
            # 429 where a dying or starting router took the request and did not answer
            assert response.status_code in {429, 503}, response.text
            assert response.json()["error"]["code"] in {"router_overloaded", "router_unavailable"}
            assert int(response.headers["retry-after"]) >= 1
            seen.add("refused")
        named = chat(http, QUESTIONS[0].text, model="finance-tfns", max_tokens=1)
        assert (named.status_code, named.headers["x-learnware-reason"]) == (200, "named")
        assert time.monotonic() < deadline, f"routing did not come back; seen: {seen}"
        time.sleep(0.2)
    assert seen == {"matched", "refused"}
