"""The state of a running stack in one JSON object, made from one scrape of its processes' metrics.

    {"time": …, "replicas": […], "routers": […], "learnwares": {id: …}, "tenants": {name: …}, "reasons": {…},
     "answers": {"2xx": …}, "first_token": {…}}

Counts only grow: whoever shows a rate takes the difference of two states. A replica that restarts begins at 0 again.
Histograms are `{"count", "sum"}`, and the one of all requests has also `buckets`, pairs of an upper bound in seconds
and the count up to it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from serving.names import ENGINE, ROUTER

OTHER = "(other)"
"""Name under which tenants and learnwares beyond the first are counted together; replicas use it likewise."""
TENANTS = 20
"""Most tenants that a state names: those with the most tokens."""
LEARNWARES = 200
"""Most learnwares that a state names: those with the most requests."""
EDGE_FRONTEND = "http_frontend"
"""Name that Ray gives to HAProxy's frontend for clients; the others are its exporter's and its statistics'."""
LISTED_IN_HOST = 200
"""Most adapters in host memory that a state lists for each replica."""

_WANTED = (
    "learnware_adapter_",
    "learnware_adapters",
    "learnware_first_token_seconds",
    "learnware_requests_total",
    "learnware_route_refused_total",
    "learnware_route_waiting",
    "learnware_scrape_success",
    "learnware_tenant_",
    "learnware_tokens_total",
    "learnware_waiting_requests",
    "vllm:generation_tokens_total",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prompt_tokens_total",
    "vllm:time_to_first_token_seconds",
    "haproxy_frontend_http_responses_total",
)
"""Beginnings of the samples that a state is made from. A scrape has thousands of others, which are not parsed."""
_UNWANTED = (
    "learnware_first_token_seconds_bucket",
    "learnware_tenant_first_token_seconds_bucket",
    "learnware_tenant_request_seconds_bucket",
)


class Sample(NamedTuple):
    """One sample of the scrape."""

    name: str
    labels: Mapping[str, str]
    value: float


def samples(text: str) -> Iterator[Sample]:
    """Yields the samples of an exposition that a state is made from."""
    lines = [line for line in text.splitlines() if line.startswith(_WANTED) and not line.startswith(_UNWANTED)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for one in family.samples:
            yield Sample(one.name, one.labels, one.value)


def live_state(text: str, now: float) -> dict[str, Any]:
    """Returns the state at time `now` (epoch seconds) from an exposition of `serving.applications.metrics`."""
    by_process: defaultdict[tuple[str, str], list[Sample]] = defaultdict(list)
    found = list(samples(text))
    for sample in found:
        by_process[sample.labels.get("deployment", ""), sample.labels.get("replica", "")].append(sample)
    replicas = [_replica(name, own) for (kind, name), own in sorted(by_process.items()) if kind == ENGINE]
    routers = [_router(name, own) for (kind, name), own in sorted(by_process.items()) if kind == ROUTER]
    return {
        "time": now,
        "replicas": replicas,
        "routers": routers,
        "learnwares": _capped(_by_learnware(found), LEARNWARES, "requests"),
        "tenants": _capped(_by_label(found, "tenant", "learnware_tenant_"), TENANTS, "tokens"),
        "reasons": _counted(found, "learnware_requests_total", "reason"),
        "answers": _answers(found),
        "first_token": _first_token(found),
    }


def _replica(name: str, own: list[Sample]) -> dict[str, Any]:
    tiers: dict[str, list[dict[str, str]]] = {"device": [], "host": []}
    for one in own:
        if one.name == "learnware_adapter_tier" and one.value and one.labels.get("tier") in tiers:
            adapter = {"learnware": one.labels.get("learnware", ""), "version": one.labels.get("version", "")}
            tiers[one.labels["tier"]].append(adapter)
    counted = _counted(own, "learnware_adapters", "tier")
    return {
        "id": name,
        "answers": _value(own, "learnware_scrape_success", 1.0) > 0,
        "slots": int(_value(own, "learnware_adapter_slots")),
        "device": tiers["device"],
        "host": tiers["host"][:LISTED_IN_HOST],
        "counts": {tier: int(counted.get(tier, 0)) for tier in ("device", "host", "disk")},
        "being_read": int(_value(own, "learnware_adapters_being_read")),
        "draining": int(_value(own, "learnware_adapters_draining")),
        "running": int(_value(own, "vllm:num_requests_running")),
        "waiting": {
            reason: int(count) for reason, count in _counted(own, "learnware_waiting_requests", "reason").items()
        },
        "waiting_in_engine": int(_value(own, "vllm:num_requests_waiting")),
        "kv_cache": round(_value(own, "vllm:kv_cache_usage_perc"), 4),
        "tokens": {
            "prompt": _value(own, "vllm:prompt_tokens_total"),
            "generated": _value(own, "vllm:generation_tokens_total"),
        },
        "loads": _counted(own, "learnware_adapter_loads_total", "tier"),
        "evictions": _counted(own, "learnware_adapter_evictions_total", "tier"),
    }


def _router(name: str, own: list[Sample]) -> dict[str, Any]:
    return {
        "id": name,
        "answers": _value(own, "learnware_scrape_success", 1.0) > 0,
        "waiting": int(_value(own, "learnware_route_waiting")),
        "refused": _counted(own, "learnware_route_refused_total", "outcome"),
    }


def _by_learnware(found: list[Sample]) -> dict[str, dict[str, Any]]:
    described = _by_label(found, "learnware", "learnware_")
    for one in found:
        if one.name == "learnware_requests_total":
            entry = described.setdefault(one.labels.get("learnware", ""), _nothing())
            entry["requests"] += one.value
            reasons = entry.setdefault("reasons", {})
            reason = one.labels.get("reason", "")
            reasons[reason] = reasons.get(reason, 0.0) + one.value
    return described


def _by_label(found: list[Sample], label: str, prefix: str) -> dict[str, dict[str, Any]]:
    """Returns tokens and the time to the first token by the values of a label, from the metrics with this prefix."""
    described: dict[str, dict[str, Any]] = {}
    tokens, first, requests = f"{prefix}tokens_total", f"{prefix}first_token_seconds", f"{prefix}request_seconds_count"
    for one in found:
        if one.name not in (tokens, f"{first}_sum", f"{first}_count", requests) or label not in one.labels:
            continue
        entry = described.setdefault(one.labels[label], _nothing())
        if one.name == tokens:
            kind = one.labels.get("kind", "")
            entry["tokens"][kind] = entry["tokens"].get(kind, 0.0) + one.value
        elif one.name == requests:
            entry["requests"] += one.value
        else:
            entry["first_token"][one.name.rpartition("_")[2]] += one.value
    return described


def _nothing() -> dict[str, Any]:
    return {"requests": 0.0, "tokens": {"prompt": 0.0, "generated": 0.0}, "first_token": {"count": 0.0, "sum": 0.0}}


def _capped(described: dict[str, dict[str, Any]], most: int, by: str) -> dict[str, dict[str, Any]]:
    """Returns the entries with the most requests or tokens; the rest is added up as `OTHER`."""

    def weight(name: str) -> tuple[bool, float, str]:
        value = described[name][by]
        return name == OTHER, -float(sum(value.values()) if isinstance(value, dict) else value), name

    names = sorted(described, key=weight)
    kept = {name: described[name] for name in names if name != OTHER}
    if len(kept) == len(names) and len(kept) <= most:
        return kept
    shown = dict(list(kept.items())[:most])
    rest = [entry for name, entry in described.items() if name not in shown]
    return shown | ({OTHER: _added(rest)} if rest else {})


def _added(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    total = _nothing()
    for entry in entries:
        total["requests"] += entry["requests"]
        for part in ("tokens", "first_token"):
            for key, value in entry[part].items():
                total[part][key] = total[part].get(key, 0.0) + value
    return total


def _first_token(found: list[Sample]) -> dict[str, Any]:
    """Returns the time to the first token of all requests, as the engines' front ends measured it."""
    name = "vllm:time_to_first_token_seconds"
    buckets: Counter[float] = Counter()
    for one in found:
        if one.name == f"{name}_bucket":
            buckets[float(one.labels["le"])] += one.value  # type: ignore[assignment]
    finite = sorted((bound, count) for bound, count in buckets.items() if bound != float("inf"))
    return {
        "count": _total(found, f"{name}_count"),
        "sum": _total(found, f"{name}_sum"),
        "buckets": [[bound, count] for bound, count in finite],
    }


def _answers(found: list[Sample]) -> dict[str, float]:
    """Returns the edge's answers by the class of their status."""
    classes: Counter[str] = Counter()
    for one in found:
        if one.name == "haproxy_frontend_http_responses_total" and one.labels.get("proxy") == EDGE_FRONTEND:
            classes[one.labels.get("code", "other")] += one.value  # type: ignore[assignment]
    return dict(classes)


def _counted(found: Iterable[Sample], name: str, label: str) -> dict[str, float]:
    counts: dict[str, float] = {}
    for one in found:
        if one.name == name and label in one.labels:
            counts[one.labels[label]] = counts.get(one.labels[label], 0.0) + one.value
    return counts


def _total(found: Iterable[Sample], name: str) -> float:
    return sum(one.value for one in found if one.name == name)


def _value(own: Iterable[Sample], name: str, default: float = 0.0) -> float:
    """Returns the sum of a metric's samples, which several engines of one replica may have."""
    values = [one.value for one in own if one.name == name]
    return sum(values) if values else default
