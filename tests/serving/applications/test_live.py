"""The state of a stack, from expositions in the form of real ones."""

import pytest

from serving.applications.live import LEARNWARES, OTHER, TENANTS, live_state
from serving.replica.usage_metrics import OTHER as OTHER_OF_REPLICAS

TWO_REPLICAS = """\
# HELP learnware_adapter_tier 1 for the fastest tier that holds a learnware's adapter.
# TYPE learnware_adapter_tier gauge
learnware_adapter_tier{learnware="acme/tfns",version="0a",tier="device",deployment="engine",replica="one"} 1
learnware_adapter_tier{learnware="b",version="0b",tier="host",deployment="engine",replica="one"} 1
learnware_adapter_tier{learnware="b",version="0b",tier="device",deployment="engine",replica="two"} 1
learnware_adapters{tier="disk",deployment="engine",replica="one"} 7
learnware_adapters{tier="host",deployment="engine",replica="one"} 1
learnware_adapter_slots{deployment="engine",replica="one"} 4
learnware_adapter_slots{deployment="engine",replica="two"} 2
learnware_waiting_requests{reason="slot",deployment="engine",replica="one"} 3
learnware_waiting_requests{reason="seat",deployment="engine",replica="one"} 0
vllm:num_requests_running{engine="0",model_name="base",deployment="engine",replica="one"} 2
vllm:num_requests_running{engine="1",model_name="base",deployment="engine",replica="one"} 3
vllm:kv_cache_usage_perc{engine="0",deployment="engine",replica="one"} 0.25
vllm:generation_tokens_total{engine="0",deployment="engine",replica="one"} 1200
vllm:prompt_tokens_total{engine="0",deployment="engine",replica="one"} 900
vllm:time_to_first_token_seconds_bucket{le="0.1",deployment="engine",replica="one"} 6
vllm:time_to_first_token_seconds_bucket{le="0.1",deployment="engine",replica="two"} 1
vllm:time_to_first_token_seconds_bucket{le="1.0",deployment="engine",replica="one"} 8
vllm:time_to_first_token_seconds_bucket{le="1.0",deployment="engine",replica="two"} 2
vllm:time_to_first_token_seconds_bucket{le="+Inf",deployment="engine",replica="one"} 9
vllm:time_to_first_token_seconds_count{deployment="engine",replica="one"} 9
vllm:time_to_first_token_seconds_sum{deployment="engine",replica="one"} 4.5
learnware_requests_total{learnware="b",reason="matched",deployment="engine",replica="one"} 5
learnware_requests_total{learnware="b",reason="matched",deployment="engine",replica="two"} 6
learnware_requests_total{learnware="base",reason="base:better",deployment="engine",replica="two"} 4
learnware_tokens_total{learnware="b",kind="generated",deployment="engine",replica="one"} 70
learnware_tokens_total{learnware="b",kind="generated",deployment="engine",replica="two"} 30
learnware_first_token_seconds_count{learnware="b",deployment="engine",replica="one"} 5
learnware_first_token_seconds_sum{learnware="b",deployment="engine",replica="one"} 0.5
learnware_tenant_tokens_total{tenant="alice",kind="prompt",deployment="engine",replica="one"} 11
learnware_tenant_request_seconds_count{tenant="alice",deployment="engine",replica="one"} 5
learnware_route_waiting{deployment="router",replica="r"} 2
learnware_route_refused_total{outcome="refuse",deployment="router",replica="r"} 9
learnware_scrape_success{deployment="engine",replica="one"} 1
learnware_scrape_success{deployment="engine",replica="two"} 0
haproxy_frontend_http_responses_total{proxy="http_frontend",code="2xx",deployment="haproxy"} 40
haproxy_frontend_http_responses_total{proxy="prometheus",code="2xx",deployment="haproxy"} 999
python_info{deployment="engine",replica="one"} 1
"""


def test_each_replica_has_its_slots_tiers_and_what_waits() -> None:
    one, two = live_state(TWO_REPLICAS, 5.0)["replicas"]
    assert (one["id"], one["slots"], one["answers"], two["answers"]) == ("one", 4, True, False)
    assert one["device"] == [{"learnware": "acme/tfns", "version": "0a"}]
    assert one["host"] == [{"learnware": "b", "version": "0b"}]
    assert one["counts"] == {"device": 0, "host": 1, "disk": 7}
    assert (one["running"], one["waiting"], one["kv_cache"]) == (5, {"slot": 3, "seat": 0}, 0.25)
    assert one["tokens"] == {"prompt": 900.0, "generated": 1200.0}
    assert two["device"] == [{"learnware": "b", "version": "0b"}]


def test_what_replicas_count_is_added_up() -> None:
    state = live_state(TWO_REPLICAS, 5.0)
    assert state["time"] == 5.0
    b = state["learnwares"]["b"]
    assert (b["requests"], b["tokens"]["generated"], b["first_token"]) == (11.0, 100.0, {"count": 5.0, "sum": 0.5})
    assert b["reasons"] == {"matched": 11.0}
    assert state["reasons"] == {"matched": 11.0, "base:better": 4.0}
    assert state["tenants"]["alice"]["tokens"]["prompt"] == 11.0
    assert state["tenants"]["alice"]["requests"] == 5.0
    assert state["first_token"] == {"count": 9.0, "sum": 4.5, "buckets": [[0.1, 7.0], [1.0, 10.0]]}
    assert state["routers"] == [{"id": "r", "answers": True, "waiting": 2, "refused": {"refuse": 9.0}}]


def test_the_exporters_own_answers_are_not_counted_as_clients() -> None:
    assert live_state(TWO_REPLICAS, 5.0)["answers"] == {"2xx": 40.0}


@pytest.mark.parametrize(
    ("metric", "label", "part", "most"),
    [
        (
            'learnware_tenant_tokens_total{{tenant="{name}",kind="generated",deployment="engine",replica="r"}} {value}',
            "tenant",
            "tenants",
            TENANTS,
        ),
        (
            'learnware_requests_total{{learnware="{name}",reason="matched",deployment="engine",replica="r"}} {value}',
            "learnware",
            "learnwares",
            LEARNWARES,
        ),
    ],
    ids=["tenants", "learnwares"],
)
def test_names_are_bounded_and_the_rest_is_added_up(metric: str, label: str, part: str, most: int) -> None:
    names = [f"name-{number:04d}" for number in range(most + 5)] + [OTHER_OF_REPLICAS]
    text = "\n".join(metric.format(name=name, value=1000 + place) for place, name in enumerate(names)) + "\n"
    found = live_state(text, 1.0)[part]
    assert len(found) == most + 1
    assert names[most + 4] in found  # the one with the most
    assert names[0] not in found
    rest = found[OTHER]
    total = rest["tokens"]["generated"] if label == "tenant" else rest["requests"]
    assert total == sum(1000 + place for place in range(5)) + 1000 + most + 5


def test_nothing_running_is_an_empty_state() -> None:
    state = live_state("", 1.0)
    assert state["replicas"] == []
    assert state["first_token"] == {"count": 0, "sum": 0, "buckets": []}
