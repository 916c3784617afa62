"""Usage by learnware and tenant is counted, and the number of its series is bounded."""

from prometheus_client import CollectorRegistry, generate_latest

from serving.paging.usage import Usage
from serving.replica.usage_metrics import NAMES, OTHER, UsageMetrics
from specs.engine_name import engine_name


def test_tokens_and_times_are_counted_by_learnware_and_by_tenant():
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry, "base-8b")
    metrics.observe(Usage(engine_name("finance-tfns", "a" * 64), "alice", 30, 4, 0.4, 0.2))
    metrics.observe(Usage(engine_name("finance-tfns", "b" * 64), "bob", 10, 1, 20.0, None))
    metrics.observe(Usage(None, "bob", 7, 0, 1.0, None))
    value = registry.get_sample_value
    assert value("learnware_tokens_total", {"learnware": "finance-tfns", "kind": "prompt"}) == 40
    assert value("learnware_tokens_total", {"learnware": "finance-tfns", "kind": "generated"}) == 5
    assert value("learnware_tokens_total", {"learnware": "base-8b", "kind": "prompt"}) == 7
    assert value("learnware_tenant_tokens_total", {"tenant": "bob", "kind": "prompt"}) == 17
    assert value("learnware_request_seconds_count", {"learnware": "finance-tfns"}) == 2
    assert value("learnware_tenant_request_seconds_sum", {"tenant": "alice"}) == 0.4
    assert value("learnware_first_token_seconds_count", {"learnware": "finance-tfns"}) == 1
    assert value("learnware_tenant_first_token_seconds_count", {"tenant": "bob"}) is None


def test_ten_thousand_learnwares_and_tenants_are_a_bounded_number_of_series():
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry, "base-8b")
    for number in range(10_000):
        metrics.observe(Usage(f"learnware-{number}", f"tenant-{number}", 2, 1, 1.0, 0.5))
    value = registry.get_sample_value
    assert value("learnware_tokens_total", {"learnware": "learnware-0", "kind": "prompt"}) == 2
    assert value("learnware_tokens_total", {"learnware": OTHER, "kind": "prompt"}) == 2 * (10_000 - NAMES)
    text = generate_latest(registry).decode()
    assert sum(line.startswith("learnware_tokens_total") for line in text.splitlines()) == 2 * (NAMES + 1)
    assert len(text) < 1 << 20


def test_a_name_keeps_its_label():
    registry = CollectorRegistry()
    metrics = UsageMetrics(registry, "base-8b", names=1)
    for name in ("first", "second", "first"):
        metrics.observe(Usage(name, "alice", 1, 1, 1.0, None))
    assert registry.get_sample_value("learnware_tokens_total", {"learnware": "first", "kind": "prompt"}) == 2
    assert registry.get_sample_value("learnware_tokens_total", {"learnware": OTHER, "kind": "prompt"}) == 1
