"""Reads and checks the things that clients send to the log of decisions: query parameters, a request's id, feedback."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from serving.decisions.filters import STATUS_CLASS, Filters
from specs.errors import InvalidInput, UnknownDecision
from specs.untrusted import load_json

MOST = 1_000
"""The most records of one answer."""
WORD_CHARS = 256
"""Characters that the value of a filter has at most."""
ANSWER_CHARS = 16_384
"""Characters that a right answer has at most."""
FEEDBACK_BYTES = 128 << 10
"""Size in bytes of the largest body with feedback: each character of an answer may be written in six."""
LABELS = ("right", "wrong")

_PARAMETERS = ("limit", "before", "after", "tenant", "learnware", "reason", "status", "task", "id")
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TIME = re.compile(r"\d{1,12}(\.\d{1,9})?")
_STATUS = re.compile(r"[1-5](\d\d|xx|XX)")
_SHOWN = 60


def filters_of(query: Sequence[tuple[str, str]], default: int = 50) -> Filters:
    """Reads the query parameters of a list of records.

    Raises:
        InvalidInput: one is unknown, comes twice, or has a value that it cannot have.
    """
    given = checked_query(query, _PARAMETERS)
    status = given.get("status")
    return Filters(
        tenant=_word(given, "tenant"),
        id=_word(given, "id"),
        learnware=_word(given, "learnware"),
        reason=_word(given, "reason"),
        status=None if status is None else _statuses(status),
        task=_word(given, "task"),
        before=_time(given, "before"),
        after=_time(given, "after"),
        limit=_limit(given.get("limit"), default),
    )


def evaluations_query(query: Sequence[tuple[str, str]]) -> tuple[str | None, float | None]:
    """Reads the query parameters of the evaluations: `learnware`, and `after`, an epoch time in seconds.

    Raises:
        InvalidInput: as `filters_of`.
    """
    given = checked_query(query, ("learnware", "after"))
    return _word(given, "learnware"), _time(given, "after")


def checked_query(query: Sequence[tuple[str, str]], names: Collection[str]) -> dict[str, str]:
    """Returns the query parameters by name.

    Raises:
        InvalidInput: one is not among `names`, or comes twice.
    """
    given: dict[str, str] = {}
    for name, value in query:
        if name not in names:
            raise InvalidInput(f"There is no query parameter {_shown(name)}; there are {', '.join(names)}.")
        if name in given:
            raise InvalidInput(f"The query parameter {name} must be there once.")
        given[name] = value
    return given


def request_id_of(value: str) -> str:
    """Returns a request's id from a path.

    Raises:
        UnknownDecision: no request can have it.
    """
    if not _ID.fullmatch(value):
        raise unknown_decision(value)
    return value


def unknown_decision(request_id: str) -> UnknownDecision:
    """Returns the error for a request of which nothing is kept, or which is another tenant's."""
    return UnknownDecision(
        f"No decision of a request {_shown(request_id)} of yours is kept. The id is the header x-request-id of an "
        "answer; a record is there a second after its answer's end."
    )


def feedback_of(content: bytes) -> tuple[str, dict[str, Any]]:
    """Reads a body with feedback; returns the request's id and the piece: `score`, `label` or `answer`.

    Raises:
        InvalidInput: it is none, with what would be right.
    """
    try:
        body = load_json(content, FEEDBACK_BYTES)
    except ValueError as error:
        raise InvalidInput(f"The body is no JSON that is taken: {error}. {_FORM}") from None
    if not isinstance(body, Mapping):
        raise InvalidInput(f"The body must be a JSON object. {_FORM}")
    unknown = sorted(map(str, set(body) - {"id", "score", "label", "answer"}))
    if unknown:
        raise InvalidInput(f"There is no field {_shown(unknown[0])} of feedback. {_FORM}")
    request_id = body.get("id")
    if not isinstance(request_id, str) or not _ID.fullmatch(request_id):
        raise InvalidInput(f"`id` must be a request's id, as the header x-request-id of its answer has it. {_FORM}")
    piece = {name: body[name] for name in ("score", "label", "answer") if body.get(name) is not None}
    if not piece or {"score", "label"} <= set(piece):
        raise InvalidInput(f"Feedback has a score or a label, or the right answer, or that beside one of them. {_FORM}")
    _check_piece(piece)
    return request_id, piece


_FORM = 'Send {"id": "…", "score": 0.5}, or "label": "right" or "wrong", or "answer": the right answer.'


def _check_piece(piece: Mapping[str, Any]) -> None:
    score, label, answer = piece.get("score"), piece.get("label"), piece.get("answer")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1):
        raise InvalidInput(f"`score` must be a number from 0 to 1. {_FORM}")
    if label is not None and label not in LABELS:
        raise InvalidInput(f"`label` must be `right` or `wrong`. {_FORM}")
    if answer is not None and not (isinstance(answer, str) and answer.strip() and len(answer) <= ANSWER_CHARS):
        raise InvalidInput(f"`answer` must be a text of 1 to {ANSWER_CHARS:,} characters. {_FORM}")


def _word(given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not (0 < len(value) <= WORD_CHARS and value.isprintable()):
        raise InvalidInput(f"{name} must have 1 to {WORD_CHARS} characters that can be printed.")
    return value


def _time(given: Mapping[str, str], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if not _TIME.fullmatch(value) or not value.isascii():
        raise InvalidInput(f"{name} must be a time in seconds since 1970, such as 1767225600.5; it is {_shown(value)}.")
    return float(value)


def _statuses(value: str) -> range:
    if not _STATUS.fullmatch(value) or not value.isascii():
        raise InvalidInput(
            f"status must be an HTTP status, such as 200, or a class, such as 4xx; it is {_shown(value)}."
        )
    if value[1:].lower() == "xx":
        first = int(value[0]) * STATUS_CLASS
        return range(first, first + STATUS_CLASS)
    return range(int(value), int(value) + 1)


def _limit(value: str | None, default: int) -> int:
    if value is None:
        return default
    if not (value.isascii() and value.isdecimal() and len(value) <= len(str(MOST)) and 1 <= int(value) <= MOST):
        raise InvalidInput(f"limit must be a whole number from 1 to {MOST:,}; it is {_shown(value)}.")
    return int(value)


def _shown(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
