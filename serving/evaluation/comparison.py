"""Two models' answers to one request, as engine replicas send them, and what they settle by themselves."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from serving.evaluation.evidence import FAILED_FROM
from specs.canary import is_canary
from specs.errors import InvalidInput

Kind = Literal["shadow", "canary"]
"""The second side was asked by `shadow.share`, or one of both is the other's canary."""
WORD_CHARS = 512
"""Characters that a name has at most."""
TEXT_CHARS = 32_768
"""Characters that are taken of a prompt (its end) and of an answer (its beginning), before they are redacted: twice
what is judged and kept."""


class Side(NamedTuple):
    """One of the two answers."""

    learnware: str
    """The model that gave it: a learnware's id, a canary's, or the base model's."""
    version: str | None
    """Its engine name; None for the base model."""
    answer: str
    tokens: float | None
    seconds: float | None
    status: int | None

    @property
    def failed(self) -> bool:
        """Whether there is nothing that could be compared."""
        return self.status is None or self.status >= FAILED_FROM or not self.answer.strip()


class Comparison(NamedTuple):
    """Both answers to one request. Of two versions the canary's is the second, whoever was asked first."""

    tenant: str
    id: str
    time: float
    kind: Kind
    prompt: str
    first: Side
    second: Side


def read_comparison(part: Mapping[str, Any]) -> Comparison:
    """Reads what a replica sends: `id`, `tenant`, `time`, `kind`, `prompt`, and two `sides`.

    Raises:
        InvalidInput: it is none.
    """
    try:
        first, second = (_side(one) for one in part["sides"])
        kind = part["kind"]
        if kind not in get_args(Kind):
            raise ValueError(f"there is no kind {kind!r}")
        if first.learnware == second.learnware and first.version == second.version:
            raise ValueError("both sides are the same model")
        # either may have been asked first; a verdict is always about the canary
        if kind == "canary" and is_canary(first.learnware):
            first, second = second, first
        names = (str(part["tenant"]), str(part["id"]))
        return Comparison(*names, float(part["time"]), kind, str(part["prompt"])[-TEXT_CHARS:], first, second)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"this is no comparison of two answers: {error}") from None


def settled(first: Side, second: Side) -> float | None:
    """Returns what needs no judge: 1.0 where the second answer is better, as the first failed, -1.0 where the second
    did, 0.0 where both failed or say the same; else None."""
    if first.failed or second.failed:
        return float(first.failed) - float(second.failed)
    return 0.0 if first.answer.strip() == second.answer.strip() else None


def _side(one: Mapping[str, Any]) -> Side:
    version, answer, status = one["version"], one["answer"], one["status"]
    return Side(
        str(one["learnware"])[:WORD_CHARS],
        None if version is None else str(version)[:WORD_CHARS],
        "" if answer is None else str(answer)[:TEXT_CHARS],
        _number(one.get("tokens")),
        _number(one.get("seconds")),
        None if status is None else int(status),
    )


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):  # of tokens, as records have them
        value = value.get("generated")
    return None if value is None else float(value)
