"""Descriptions of what is known of a learnware's tasks, and from where, as `market show` gives them."""

from pathlib import Path
from typing import Any

from specs.capability import Capability
from specs.evidence_store import FOLDER, EvidenceStore


def describe_evidence(market: Path, learnware: str) -> dict[str, Any]:
    """Describes what feedback says of a learnware, as `market show` gives it: by task its expected gain over the base
    model, from how many pieces of feedback that is known, and what is held for approval."""
    evidence = EvidenceStore(market / FOLDER).read()
    if evidence is None:
        return {"number": None, "tasks": {}, "held": []}
    return {
        "number": evidence.number,
        "tasks": {
            task: {"gain": round(row[learnware].gain, 4), "pieces": round(row[learnware].pieces, 2)}
            for task, row in sorted(evidence.posteriors.items())
            if learnware in row and row[learnware].pieces
        },
        "held": [
            {"task": one.task, "gain": round(one.before, 4), "would_be": round(one.after.gain, 4)}
            for one in evidence.held
            if one.learnware == learnware
        ],
    }


def describe_probes(capability: Capability | None) -> dict[str, Any]:
    """Describes what probes measured on tasks: how many rows, and the right answer's mean probability, the learnware's
    and the base model's."""
    probes = {} if capability is None else capability.probes
    return {
        task: {
            "rows": score.rows,
            "probability": round(score.probability, 4),
            "base_probability": round(score.base_probability, 4),
        }
        for task, score in sorted(probes.items())
    }
