"""What a stack answers, made up in the forms of the real ones: learnwares, explained choices, decisions, evaluations,
and a scrape.

Cards and measurements off their tasks are those of the starter learnwares, described by the functions of the market.
"""

from typing import Any

from serving.applications.market_record import off_task
from serving.paths import STARTER_FOLDER
from specs.capability import load_capability
from specs.card import load_card

BASE = "SmolLM2-135M-Instruct"
ON_TRIAL = "finance-fin_ner_type"
"""Learnware that has a canary."""
HOSTILE_ID = "mallory/hostile"
HOSTILE_TEXT = "<script>window.owned=1</script><img src=x onerror='window.owned=1'>\u202egnp.exe\u202c"
REPLICA = "learnware#engine#a1b2c3d4"


def starters() -> list[dict[str, Any]]:
    """The starter learnwares as `GET /v1/learnwares/{id}` describes them."""
    found = []
    for number, folder in enumerate(sorted(path.parent for path in STARTER_FOLDER.glob("*/learnware.yaml"))):
        card = load_card(folder / "learnware.yaml")
        capability = load_capability(folder / "specification")
        task = f"{card.domain}-{card.tasks[0]}"
        found.append(
            {
                "id": card.id,
                "object": "learnware",
                "version": 1 + number % 3,
                "state": "active",
                "reason": None,
                "notes": [],
                "changed": f"2026-03-{number + 1:02d}T10:20:30+00:00",
                "sha256": f"{number:02x}" * 32,
                "card": card.model_dump(mode="json", exclude_none=True),
                "chosen_by_auto": True,
                "known": {
                    "probes": {task: {"rows": 200, "probability": 0.66 + number / 100, "base_probability": 0.31}},
                    "feedback": {
                        "number": 3,
                        "tasks": {task: {"gain": 0.214, "pieces": 17.5}},
                        "held": [{"task": task, "gain": 0.214, "would_be": -0.12}],
                    },
                },
                "off_task": off_task(capability),
                "canary": None,
                "canaries": [],
            }
        )
    (tried,) = [one for one in found if one["id"] == ON_TRIAL]
    ended = {"version": 1, "share": 0.1, "since": 1_779_000_000.0, "until": 1_779_003_600.0}
    tried |= {
        "canary": {"version": 4, "share": 0.05, "since": 1_780_000_000.0, "sha256": "c4" * 32},
        "canaries": [ended | {"outcome": "rolled back", "reason": "its answers are worse"}],
    }
    return found


def hostile() -> dict[str, Any]:
    """A learnware each text of which tries to become part of the page."""
    template = starters()[0]
    card = template["card"] | {
        "id": HOSTILE_ID,
        "name": HOSTILE_TEXT,
        "description": HOSTILE_TEXT,
        "domain": HOSTILE_TEXT,
        "tasks": [HOSTILE_TEXT],
        "author": HOSTILE_TEXT,
        "examples": [HOSTILE_TEXT],
        "source": "javascript:window.owned=1",
    }
    return template | {"id": HOSTILE_ID, "card": card, "notes": [HOSTILE_TEXT]}


def explained(text: str) -> dict[str, Any]:
    """An answer of `POST /v1/route`."""
    names = [
        "mathematics-gsm8k_first_operation",
        "mathematics-svamp_operation",
        "mathematics-gsm8k_solution",
        "finance-tfns",
    ]
    tiers = ["device", "host", "device", "disk"]
    return {
        "model": "auto",
        "learnware": names[0],
        "reason": "matched",
        "score": 0.873,
        "confidence": 0.91,
        "explanation": f"The request asks for what {names[0]} answers better than the base model with a probability of "
        "0.87 (at least 0.5); it is expected to answer right with 0.742, the base model with 0.311.",
        "ask": [text[:200]],
        "tasks": [
            {"task": "mathematics-gsm8k_first_operation", "probability": 0.71},
            {"task": "mathematics-svamp_operation", "probability": 0.16},
            {"task": "base:everyday", "probability": 0.06},
        ],
        "base": {"expected": 0.311},
        "match": 0.873,
        "min_match": 0.5,
        "candidates": [
            {
                "learnware": name,
                "expected": round(0.742 - 0.11 * place, 3),
                "score": round(0.873 - 0.2 * place, 3),
                "home": REPLICA,
                "tiers": {REPLICA: tiers[place]},
                "may_answer": place == 0,
            }
            for place, name in enumerate(names)
        ],
        "replica": {"id": REPLICA, "why": "home", "tier": "device", "requests": {REPLICA: 1}, "bound": 4},
        "prompts": 1,
        "turns": 1,
        "route_ms": 1.31,
    }


def choice_of(learnware: str | None) -> dict[str, Any]:
    """The choice in a record."""
    found = explained("Which drug is right?")
    candidates = [{name: one[name] for name in ("learnware", "expected", "score")} for one in found["candidates"]]
    if learnware is not None:
        candidates[0] = {"learnware": learnware, "expected": 0.742, "score": 0.873}
    return {
        "learnware": learnware,
        "confidence": 0.91,
        "base": 0.311,
        "bound": 0.5,
        "candidates": candidates,
        "tasks": found["tasks"],
        "market": 17,
        "prompts": 1,
        "turns": 1,
    }


def recorded() -> list[dict[str, Any]]:
    """Decisions as `serving.decisions.record` writes them, newest first."""
    kinds = [
        ("mathematics-gsm8k_first_operation", "matched", 200, "alice", "device"),
        (BASE, "base:better", 200, "bob", None),
        ("finance-tfns", "named", 200, "alice", "host"),
        (None, "matched", 429, "bob", None),
        ("healthcare-pubmedqa", "matched:resident", 200, "alice", "disk"),
        (BASE, "base:low-confidence", 200, "alice", None),
    ]
    rows = []
    for number in range(60):
        learnware, reason, status, tenant, tier = kinds[number % len(kinds)]
        chosen = None if learnware in (BASE, None) else learnware
        rows.append(
            {
                "id": f"req-{number:04d}",
                "decision": f"{number:016x}",
                "time": 1_780_000_000.25 - 37 * number,
                "tenant": tenant,
                "path": "/v1/chat/completions",
                "model": learnware if reason == "named" else "auto",
                "learnware": learnware,
                "version": None if chosen is None else f"{chosen}@0123456789ab",
                "reason": reason,
                "score": None if reason == "named" else 0.873,
                "status": status,
                "stream": True,
                "replica": REPLICA,
                "tier": tier,
                "tokens": {"prompt": 41, "generated": 17 + number},
                "ttft_s": 0.031 + number / 100,
                "seconds": 0.61,
                "queue_s": 0.004,
                "route_ms": 1.2,
                "trace": "4bf92f3577b34da6a3ce929d0e0e4736" if number % 2 else None,
                "choice": None if reason == "named" else choice_of(chosen),
                "feedback": [{"time": 1_780_000_100.0, "score": 0.0, "label": "wrong", "tenant": tenant}]
                if number % 5 == 1
                else [],
            }
        )
    return rows


def pair(first: str, second: str, **changed: Any) -> dict[str, Any]:
    """A comparison of two models as `GET /v1/evaluations` has it."""
    made = {
        "first": first,
        "first_version": f"{first}@{'1f' * 32}",
        "second": second,
        "second_version": f"{second}@{'2e' * 32}",
        "kind": "shadow",
        "source": "judge",
        "comparisons": 120,
        "wins": 70,
        "ties": 20,
        "losses": 30,
        "win_rate": 0.667,
        "interval": [0.58, 0.74],
        "tokens": [61.4, 23.8],
        "seconds": [1.91, 0.84],
    }
    return made | changed


def evaluations(tenant: str | None) -> dict[str, Any]:
    """An answer of `GET /v1/evaluations`: all comparisons (None), or those of one tenant's requests."""
    canary = f"{ON_TRIAL}@canary"
    worse = {"wins": 4, "ties": 6, "losses": 30, "win_rate": 0.175, "interval": [0.09, 0.31], "comparisons": 40}
    scores = {"wins": 14.25, "ties": 2.5, "losses": 14.25, "win_rate": 0.5, "interval": [0.32, 0.68], "comparisons": 31}
    pairs = [
        pair("mathematics-svamp_operation", "mathematics-gsm8k_first_operation"),
        pair(BASE, "finance-tfns", first_version=None, source="reference", **worse),
        pair(ON_TRIAL, canary, kind="canary", interval=[0.41, 0.63], win_rate=0.52, comparisons=88),
        pair(ON_TRIAL, canary, kind="canary", source="feedback", tokens=[None, None], seconds=None, **scores),
    ]
    trial = {
        "learnware": ON_TRIAL,
        "version": f"{canary}@{'c4' * 32}",
        "share": 0.05,
        "since": 1_780_000_000.0,
        "until": None,
        "answers": 212,
        "state": "running",
        "verdict": "waiting",
        "why": "88 comparisons do not tell it from the current version yet.",
        "evidence": {
            "feedback": {"canary": [12, 0.75], "current": [201, 0.71]},
            "failures": {"canary": [212, 0.0094], "current": [4031, 0.0]},
            "pairs": {"judge": {"comparisons": 88, "win_rate": 0.52, "interval": [0.41, 0.63]}},
        },
    }
    ended = {
        "learnware": HOSTILE_ID,
        "version": f"{HOSTILE_ID}@canary@{'a5' * 32}",
        "share": 0.2,
        "since": 1_779_900_000.0,
        "until": 1_779_903_600.0,
        "answers": 37,
        "state": "rolled back",
        "verdict": "worse",
        "why": HOSTILE_TEXT,
        "evidence": {
            "feedback": {"canary": [0, None], "current": [3, 0.9]},
            "pairs": {HOSTILE_TEXT: {"comparisons": 0, "win_rate": None, "interval": [0.0, 1.0]}},
        },
    }
    hostile_pair = pair(HOSTILE_TEXT, HOSTILE_ID, kind=HOSTILE_TEXT, source=HOSTILE_TEXT, first_version=HOSTILE_TEXT)
    whole = tenant is None
    return {
        "object": "evaluations",
        "since": 1_779_900_000.0,
        "pairs": [*pairs, hostile_pair] if whole else [pair(BASE, "finance-tfns", comparisons=7)],
        "canaries": [trial, ended] if whole else [trial | dict.fromkeys(("answers", "why", "evidence"))],
        "judge": "a-large-model" if whole else None,
        "waiting": 3 if whole else 0,
        "failed": 1 if whole else 0,
    }


def exposition(passed: float, names: list[str]) -> str:
    """A scrape `passed` seconds after the start, with adapters that move between the tiers."""
    turn = int(passed / 3)
    order = names[turn % len(names) :] + names[: turn % len(names)]
    device, host = order[:3], order[3:9]
    ours = f'deployment="engine",replica="{REPLICA}"'
    router = 'deployment="router",replica="learnware#router#0a"'
    edge = 'proxy="http_frontend",deployment="haproxy"'
    tier = [
        f'learnware_adapter_tier{{learnware="{name}",version="{names.index(name):012x}",tier="{kind}",{ours}}} 1'
        for kind, held in (("device", device), ("host", host))
        for name in held
    ]
    requests = [
        f'learnware_requests_total{{learnware="{name}",reason="matched",{ours}}} {int(passed * (place + 1))}'
        for place, name in enumerate(names[:6])
    ]
    usage = [
        line
        for place, name in enumerate(names[:6])
        for line in (
            f'learnware_tokens_total{{learnware="{name}",kind="generated",{ours}}} {int(passed * 20 * (place + 1))}',
            f'learnware_first_token_seconds_count{{learnware="{name}",{ours}}} {int(passed * (place + 1))}',
            f'learnware_first_token_seconds_sum{{learnware="{name}",{ours}}} {passed * (place + 1) * 0.08}',
        )
    ]
    tenants = [
        line
        for place, name in enumerate(("alice", "bob"))
        for answered in (int(passed * 5 * (place + 1)),)
        for line in (
            f'learnware_tenant_tokens_total{{tenant="{name}",kind="generated",{ours}}} {18 * answered}',
            f'learnware_tenant_request_seconds_count{{tenant="{name}",{ours}}} {answered}',
        )
    ]
    answered = int(passed * 10)
    return "\n".join(
        [
            "# HELP learnware_adapter_tier 1 for the fastest tier that holds a learnware's adapter.",
            "# TYPE learnware_adapter_tier gauge",
            *tier,
            f'learnware_adapters{{tier="device",{ours}}} {len(device)}',
            f'learnware_adapters{{tier="host",{ours}}} {len(host)}',
            f'learnware_adapters{{tier="disk",{ours}}} {len(names) - 9}',
            f"learnware_adapter_slots{{{ours}}} 4",
            f"learnware_adapters_being_read{{{ours}}} 1",
            f'learnware_waiting_requests{{reason="host_memory",{ours}}} {turn % 2}',
            f'learnware_waiting_requests{{reason="slot",{ours}}} {turn % 4}',
            f'learnware_waiting_requests{{reason="parked",{ours}}} 0',
            f'vllm:num_requests_running{{engine="0",{ours}}} {3 + turn % 4}',
            f'vllm:num_requests_waiting{{engine="0",{ours}}} {turn % 4}',
            f'vllm:kv_cache_usage_perc{{engine="0",{ours}}} 0.37',
            f'vllm:generation_tokens_total{{engine="0",{ours}}} {int(passed * 210 + 40 * (turn % 3))}',
            f'vllm:prompt_tokens_total{{engine="0",{ours}}} {int(passed * 340)}',
            f'vllm:time_to_first_token_seconds_bucket{{le="0.05",{ours}}} {answered // 2}',
            f'vllm:time_to_first_token_seconds_bucket{{le="0.1",{ours}}} {answered * 9 // 10}',
            f'vllm:time_to_first_token_seconds_bucket{{le="0.5",{ours}}} {answered}',
            f'vllm:time_to_first_token_seconds_bucket{{le="+Inf",{ours}}} {answered}',
            f"vllm:time_to_first_token_seconds_count{{{ours}}} {answered}",
            f"vllm:time_to_first_token_seconds_sum{{{ours}}} {answered * 0.06}",
            *requests,
            f'learnware_requests_total{{learnware="{BASE}",reason="base:better",{ours}}} {int(passed * 2)}',
            *usage,
            *tenants,
            f"learnware_route_waiting{{{router}}} 0",
            f'learnware_route_refused_total{{outcome="refuse",{router}}} {turn}',
            'learnware_scrape_success{deployment="engine",replica="' + REPLICA + '"} 1',
            f'haproxy_frontend_http_responses_total{{code="2xx",{edge}}} {answered}',
            f'haproxy_frontend_http_responses_total{{code="4xx",{edge}}} {answered // 9}',
            'haproxy_frontend_http_responses_total{proxy="prometheus",code="2xx",deployment="haproxy"} 100000',
            "",
        ]
    )
