"""Comparisons as engine replicas send them."""

from typing import Any

CANARY = "finance/x@canary"


def side(learnware: str, answer: str = "yes", status: int | None = 200, **changes: Any) -> dict[str, Any]:
    version = None if learnware == "base" else f"{learnware}@abc"
    return {
        "learnware": learnware,
        "version": version,
        "answer": answer,
        "tokens": 3,
        "seconds": 0.5,
        "status": status,
        **changes,
    }


def part(number: int, first: dict[str, Any], second: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": f"request-{number}",
        "tenant": "alice",
        "decision": f"d{number}",
        "time": 1000.0 + number,
        "path": "/v1/chat/completions",
        "prompt": "Is it?",
        "sides": [first, second],
        "kind": "shadow",
        **changes,
    }
