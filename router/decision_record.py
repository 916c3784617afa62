"""A choice as the log of decisions keeps it: the router's half of a record.

The replica's half, which knows how the request went, names the same decision's id (`router.choice.RoutedChoice`). What
takes the halves (`DecisionRecorder`) is passed in; this package knows no store.
"""

import base64
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, get_args

from router.choice import new_decision_id
from router.explanation import DIGITS
from router.request import RoutedRequest
from router.selection import Choice, ReadText
from router.snapshot import Snapshot
from specs.answers.description import AnswerKind
from specs.answers.form import AnswerForm
from specs.encoding.ask import split_prompt

logger = logging.getLogger("ray.serve")

ASK_CHARS = 2_000
"""The most characters of an ask's sentences that are kept."""


class DecisionRecorder(Protocol):
    """Takes the router's halves of records. It never blocks and never raises."""

    @property
    def vectors(self) -> bool:
        """Whether a record keeps the vector that a choice was made by."""

    @property
    def prompts(self) -> bool:
        """Whether a record keeps words of the request."""

    def start(self) -> None:
        """Begins to pass on what is added, in the running event loop."""

    def add(self, part: Mapping[str, Any]) -> None:
        """Takes one half."""

    async def close(self) -> None:
        """Sends what waits, once, and ends."""


class ChoiceLog:
    """The choices of one router replica on their way to the log of decisions; without a recorder they only get ids."""

    def __init__(self, recorder: DecisionRecorder | None) -> None:
        self._recorder = recorder

    def start(self) -> None:
        """Begins to pass on what is noted, in the running event loop."""
        if self._recorder is not None:
            self._recorder.start()

    async def close(self) -> None:
        """Sends what waits, once, and ends."""
        if self._recorder is not None:
            await self._recorder.close()

    def note(self, choice: Choice, request: RoutedRequest, snapshot: Snapshot | None, sequence: int) -> str:
        """Notes a choice over a snapshot, after the market's change number `sequence`, and returns the decision's id.
        Never raises."""
        decision, recorder = new_decision_id(), self._recorder
        if recorder is not None:
            try:
                selector = None if snapshot is None else snapshot.selector
                fingerprint = selector.fingerprint if selector is not None and recorder.vectors else None
                recorder.add(choice_part(decision, choice, request, sequence, fingerprint, recorder.prompts))
            except Exception:
                logger.exception("a choice could not be recorded")
        return decision

    def reading(self, choose_text: Callable[[str], Choice]) -> Callable[[str], Choice]:
        """Returns a function that chooses as `choose_text` does, and keeps the ask's sentences with the choice where
        words are kept."""
        if self._recorder is None or not self._recorder.prompts:
            return choose_text

        def choose(text: str) -> Choice:
            choice = choose_text(text)
            read = choice.read
            return choice if read is None else choice._replace(read=_asking(read, text))

        return choose


def choice_part(
    decision: str, choice: Choice, request: RoutedRequest, sequence: int, fingerprint: str | None, ask: bool
) -> dict[str, Any]:
    """Returns the router's half of a record, for JSON.

    Args:
        decision: the decision's id.
        choice: the choice that was sent.
        request: the request as the router read it.
        sequence: number of the market's change that the choice was made over.
        fingerprint: the encoder's, to keep the vector; None leaves it out.
        ask: whether the ask's sentences are kept.
    """
    read = choice.read
    kept: dict[str, Any] = {
        "learnware": choice.learnware_id,
        "reason": choice.reason,
        "score": round(choice.score, DIGITS),
        "confidence": round(choice.confidence, DIGITS),
        "base": round(choice.base, DIGITS),
        "bound": choice.bound,
        "candidates": [
            {"learnware": name, "expected": round(expected, DIGITS), "score": round(score, DIGITS)}
            for name, score, _, expected in choice.candidates
        ],
        "tasks": [{"task": name, "probability": round(p, DIGITS)} for name, p in choice.probabilities],
        "market": sequence,
        "prompts": len(request.prompts),
        "turns": sum(len(prompt.turns) for prompt in request.prompts),
    }
    if ask and read is not None:
        kept["ask"] = _shortened(read.ask)
    part: dict[str, Any] = {"decision": decision, "choice": kept}
    if fingerprint is not None and read is not None:
        part["vectors"] = {
            "encoder": fingerprint,
            "vector": base64.b64encode(read.vector).decode("ascii"),
            "form": form_as_json(read.form),
        }
    return part


def form_as_json(form: AnswerForm | None) -> dict[str, Any] | None:
    """Returns the form of answer that was asked for, for JSON."""
    if form is None:
        return None
    return {"kind": form.kind, "labels": sorted(form.labels), "by_options": form.by_options}


def form_from_json(kept: Any) -> AnswerForm | None:
    """Returns the form of answer that `form_as_json` wrote.

    Raises:
        ValueError: it is none.
    """
    if kept is None:
        return None
    try:
        kind, labels = kept["kind"], frozenset(map(str, kept["labels"]))
    except (TypeError, KeyError):
        raise ValueError("a form of answer has `kind` and `labels`") from None
    if kind not in get_args(AnswerKind):
        raise ValueError(f"there is no kind of answer {kind!r}")
    return AnswerForm(kind, labels, bool(kept.get("by_options")))


def _asking(read: ReadText, text: str) -> ReadText:
    return read._replace(ask=tuple(_shortened(split_prompt(text).ask)))


def _shortened(sentences: tuple[str, ...]) -> list[str]:
    kept, left = [], ASK_CHARS
    for sentence in sentences:
        if left <= 0:
            break
        kept.append(sentence[:left])
        left -= len(sentence)
    return kept
