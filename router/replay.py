"""A recorded choice, made again over the market of today: what would be chosen now, and why it differs.

A record keeps the vector that decided, not the words, so a replay applies the rule to that vector. What the
conversation around it decided beside the rule (a turn that asks for words about an answer, a chat front end that asks
for something for itself) holds as it was recorded.
"""

import base64
import binascii
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.choice import (
    BASE_BETTER,
    CANARY,
    EXPLANATION,
    INTERFACE_TASK,
    LOW_CONFIDENCE,
    MATCHED,
    NO_LEARNWARE,
    RESIDENT,
    SESSION,
    UNKNOWN_TASK,
)
from router.decision_record import form_from_json
from router.explanation import DIGITS
from router.exploring import EXPLORED
from router.selection import Choice, Selector
from router.snapshot import Snapshot
from specs.answers.form import AnswerForm
from specs.canary import learnware_of
from specs.task import TASK_PREFIX

STAND_INS = (RESIDENT, EXPLORED)
"""Endings of the reasons of choices in which another than the best one by the rule answered."""
SAME = 1e-4
"""Expected qualities that differ by less are told as the same: the vector is kept in half precision."""


class CannotReplay(ValueError):
    """Raised when a recorded choice cannot be made again; the message says why."""


class Kept(NamedTuple):
    """The vector and the asked form that a record keeps."""

    vector: NDArray[np.float32]
    form: AnswerForm | None


def replayed(
    recorded: Mapping[str, Any], snapshot: Snapshot | None, choose_for_task: Callable[[str], Choice]
) -> Choice:
    """Returns the choice of a record (its `choice`, `vectors` and `model`) over today's market; that of a request for a
    task by the task itself.

    Raises:
        CannotReplay: what is kept does not say enough.
    """
    model = recorded.get("model")
    if isinstance(model, str) and model.startswith(TASK_PREFIX):
        return choose_for_task(model)
    if snapshot is None or snapshot.selector is None:
        return Choice(None, 0.0, 0.0, NO_LEARNWARE, ())
    kept = _kept_text(recorded.get("vectors"), snapshot.selector.fingerprint)
    return _choose_again(snapshot.selector, kept, str(recorded["choice"].get("reason")))


def _kept_text(vectors: Any, fingerprint: str) -> Kept:
    """Reads what a record keeps of the text that decided. `fingerprint` is that of today's encoder.

    Raises:
        CannotReplay: nothing is kept, another encoder made it, or it is damaged.
    """
    if not isinstance(vectors, Mapping):
        raise CannotReplay(
            "No vector is kept with this decision (decisions.vectors is off, there was no text, or several prompts "
            "decided together), so it cannot be replayed."
        )
    if vectors.get("encoder") != fingerprint:
        raise CannotReplay(
            "The vector of this decision was made by another encoder than today's, so it says nothing to this router."
        )
    try:
        vector = np.frombuffer(base64.b64decode(vectors["vector"], validate=True), np.float16).astype(np.float32)
        form = form_from_json(vectors.get("form"))
    except (ValueError, TypeError, KeyError, binascii.Error):
        raise CannotReplay("What is kept of this decision is damaged, so it cannot be replayed.") from None
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0.0:
        raise CannotReplay("What is kept of this decision is damaged, so it cannot be replayed.")
    return Kept(vector / norm, form)


def _choose_again(selector: Selector, kept: Kept, reason: str) -> Choice:
    """Returns the choice for a kept vector over today's market. `reason` is the recorded one, whose part in the
    conversation holds."""
    if len(kept.vector) != selector.dim:
        raise CannotReplay("What is kept of this decision is damaged, so it cannot be replayed.")
    choice = selector.choose_embedded(kept.vector, form=kept.form)
    chosen = choice.learnware_id
    before = reason.removesuffix(CANARY).removesuffix(RESIDENT).removesuffix(EXPLORED)
    if before == INTERFACE_TASK:
        return choice._replace(learnware_id=None, reason=INTERFACE_TASK)
    if before == EXPLANATION and chosen is not None and not selector.answers_in_sentences(chosen):
        return choice._replace(learnware_id=None, reason=EXPLANATION)
    if before == SESSION and choice.reason == MATCHED:
        return choice._replace(reason=SESSION)
    return choice


def compared(then: Mapping[str, Any], now: Choice, sequence: int, known: Collection[str]) -> dict[str, Any]:
    """Returns both choices (`then`, and `choice` for now), whether they differ, and why, for JSON.

    Args:
        then: the recorded choice (`router.decision_record.choice_part`).
        now: the choice that was made again.
        sequence: number of the market's change that it was made over.
        known: ids of the learnwares that are served now.
    """
    ruled = _without_canary(then)
    best = _best(ruled) if _stood_in(ruled) else ruled.get("learnware")
    return {
        "differs": best != now.learnware_id,
        "why": " ".join(_why(then, best, now, sequence, known)),
        "then": {
            key: then.get(key) for key in ("learnware", "reason", "score", "base", "bound", "candidates", "market")
        },
        "choice": {
            "learnware": now.learnware_id,
            "reason": now.reason,
            "score": round(now.score, DIGITS),
            "confidence": round(now.confidence, DIGITS),
            "base": round(now.base, DIGITS),
            "bound": now.bound,
            "candidates": [
                {
                    "learnware": one.learnware_id,
                    "expected": round(one.expected, DIGITS),
                    "score": round(one.score, DIGITS),
                }
                for one in now.candidates
            ],
            "tasks": [{"task": name, "probability": round(p, DIGITS)} for name, p in now.probabilities],
            "market": sequence,
        },
    }


def _why(then: Mapping[str, Any], best: str | None, now: Choice, sequence: int, known: Collection[str]) -> list[str]:
    """Returns one or two sentences: whether the choice is the same, and what made the difference."""
    changes = sequence - int(then.get("market") or 0)
    market = "The market is the same" if changes == 0 else f"The market has changed {_times(changes)} since"
    if best == now.learnware_id:
        other = "" if best == then.get("learnware") else f"; {_name(then.get('learnware'), 'the')} {_how(then)}"
        return [f"{_name(best)} would answer again{other}.", f"{market}."]
    return [
        f"{_name(now.learnware_id)} would answer instead of {_name(best, 'the')}.",
        _cause(then, best, now, known, market),
    ]


def _cause(then: Mapping[str, Any], best: str | None, now: Choice, known: Collection[str], market: str) -> str:
    expected_then = {one["learnware"]: one["expected"] for one in then.get("candidates") or ()}
    expected_now = {one.learnware_id: one.expected for one in now.candidates}
    score_then = {one["learnware"]: one["score"] for one in then.get("candidates") or ()}
    score_now = {one.learnware_id: one.score for one in now.candidates}
    chosen = now.learnware_id
    if now.reason == NO_LEARNWARE:
        return "There is no learnware to choose from now."
    if now.reason == UNKNOWN_TASK:
        return "The task is not kept any more."
    if best is not None and best not in known:
        return f"{best} is not served any more."
    if now.reason in (EXPLANATION, INTERFACE_TASK):
        return "The turn asks for words, or a chat front end asks for itself, which the base model answers."
    if chosen is None and now.reason == LOW_CONFIDENCE:
        before = f" (then {score_then[best]:.2f})" if best in score_then else ""
        return (
            f"Nobody is likely enough to answer better than the base model: the best has a probability of "
            f"{now.score:.2f}{before}, and {now.bound:g} is needed{_moved(then.get('bound'), now.bound)}."
        )
    if chosen is None and now.reason == BASE_BETTER:
        return (
            f"Of the base model {now.base:.3f} is expected now{_moved(then.get('base'), now.base)}, which no learnware "
            f"exceeds{_moved_of(best, expected_then, expected_now)}."
        )
    if chosen is not None and chosen not in expected_then:
        return f"{chosen} was not among the best candidates then: it is new, or more is expected of it since. {market}."
    if best is None and chosen is not None:
        return (
            f"Its probability to answer better is {score_now[chosen]:.2f} (then {score_then[chosen]:.2f}), where "
            f"{now.bound:g} is needed, and {expected_now[chosen]:.3f} is expected of it (then "
            f"{expected_then[chosen]:.3f}); of the base model {now.base:.3f}{_moved(then.get('base'), now.base)}."
        )
    moved = _moved_of(chosen, expected_then, expected_now) + _moved_of(best, expected_then, expected_now)
    return f"What is expected of them has changed{moved}." if moved else f"{market}; they are as good as equal."


def _stood_in(then: Mapping[str, Any]) -> bool:
    return str(then.get("reason", "")).endswith(STAND_INS)


def _without_canary(then: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a recorded choice as the rule made it, before a canary was drawn."""
    reason = str(then.get("reason", ""))
    if not reason.endswith(CANARY):
        return then
    return {**then, "reason": reason.removesuffix(CANARY), "learnware": learnware_of(str(then.get("learnware")))}


def _how(then: Mapping[str, Any]) -> str:
    """Says why another than the best one answered."""
    if str(then.get("reason")).endswith(CANARY):
        return "had its share of the requests then"
    if EXPLORED in str(then.get("reason")):
        return "was tried in its place then, to learn of it"
    return "stood in for it then, its adapter being nearer to the device"


def _best(then: Mapping[str, Any]) -> str | None:
    """Returns who would have answered by the rule: the first candidate where it is expected to be better than the base
    model and is likely enough to be, else the base model."""
    candidates = then.get("candidates") or ()
    if not candidates:
        answered: str | None = then.get("learnware")
        return answered
    first = candidates[0]
    better = first["expected"] > (then.get("base") or 0.0) and first["score"] >= (then.get("bound") or 0.0)
    return str(first["learnware"]) if better else None


def _name(learnware: Any, article: str = "The") -> str:
    return f"{article} base model" if learnware is None else str(learnware)


def _times(changes: int) -> str:
    return "once" if changes == 1 else f"{changes} times" if changes > 0 else "(another one is there now)"


def _moved(then: Any, now: float) -> str:
    return "" if then is None or abs(then - now) < SAME else f" (then {then:g})"


def _moved_of(learnware: str | None, then: Mapping[str, float], now: Mapping[str, float]) -> str:
    if (
        learnware is None
        or learnware not in then
        or learnware not in now
        or abs(then[learnware] - now[learnware]) < SAME
    ):
        return ""
    return f"; of {learnware} {now[learnware]:.3f} is expected (then {then[learnware]:.3f})"
