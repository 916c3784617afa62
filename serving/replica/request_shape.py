"""How large and how deep the JSON of a request may be, and the JSON types of a few fields.

vLLM validates a body in the event loop that streams tokens. A value of the wrong type costs it several errors, each
with a text: 4 MiB of `[],[],…` for `messages` keep the loop busy for minutes and make gigabytes of text. So what no
client needs is refused before. Lists of token ids, which may be long, are not counted: their elements are numbers.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from specs.errors import InvalidInput

MAX_DEPTH = 64
"""Deepest nesting. JSON schemas of tools need about twenty; Python's own limit depends on what else is on the stack."""
MAX_ITEMS = 2048
"""Most elements of a list, and of an object."""
MAX_VALUES = 16_384
"""Most values in all: 128 tools with their schemas take about 8,000."""
LARGE_BYTES = 256 << 10
"""Size of a body from which on its brackets are counted before it is parsed: parsing holds the loop, in a thread as
well, since Python's parser does not give up the interpreter's lock."""
TOKEN_FIELDS = frozenset({"prompt", "token_ids", "tokens", "query", "items", "allowed_token_ids", "stop_token_ids"})
"""Fields that hold token ids, in a list or in a list of lists."""

FORMS: Mapping[str, type] = {
    "messages": list,
    "tools": list,
    "structured_outputs": dict,
}
"""JSON types of fields that vLLM 0.29 looks into before it checks them: with another one it answers 500."""

LARGEST_NUMBER = 2**63
"""Magnitude from which on a number is refused: vLLM hands integers of up to 64 bits to its engine core."""
_MAY_BE_LARGE = re.compile(rb"[0-9]{19}|[0-9][eE]\+?[0-9]{2}")
"""Finds every body that may hold a number of that magnitude."""
_MAY_BE_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""Finds every body that may hold half of a surrogate pair, which JSON can write and UTF-8 cannot."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def parse_object(body: bytes) -> dict[str, Any] | None:
    """Parses a body as a JSON object; None when it is not one.

    Raises:
        InvalidInput: the body is not UTF-8, larger or deeper than any request needs to be, or holds a number or a text
            that cannot be handed on.
    """
    if len(body) > LARGE_BYTES and _brackets(body) > MAX_VALUES and _brackets(_STRING.sub(b"", body)) > MAX_VALUES:
        raise _too_many()
    try:
        payload = json.loads(body)
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"The request body must be JSON in UTF-8; byte {error.start} is not: {error.reason}."
        ) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        return None
    if not isinstance(payload, dict):
        return None
    _check_forms(payload)
    if len(body) > 2 * MAX_ITEMS or _brackets(body) > MAX_DEPTH:  # a shorter one cannot hold too much
        _check(payload)
    if _MAY_BE_HALF.search(body):
        _check_text(payload)
    if _MAY_BE_LARGE.search(body):
        _check_numbers(payload)
    return payload


def _check_text(payload: dict[str, Any]) -> None:
    """Raises InvalidInput for a text with half of a surrogate pair."""
    try:
        json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InvalidInput(
            f"The request body holds \\u{ord(half):04x} alone, half of a surrogate pair, which is no character. Send "
            "the whole pair, or the character itself in UTF-8."
        ) from None


def _check_numbers(payload: dict[str, Any]) -> None:
    """Raises InvalidInput for a number that is too large."""
    waiting: list[Any] = [payload]
    while waiting:
        value = waiting.pop()
        if _is_tokens(value):  # may be long
            waiting += (min(value), max(value))
        elif isinstance(value, dict | list):
            waiting.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, int | float) and LARGEST_NUMBER <= abs(value) != math.inf:
            raise InvalidInput("The request body holds a number of more than 63 bits; no setting needs one.")


def _check_forms(payload: dict[str, Any]) -> None:
    """Raises InvalidInput for a field of another JSON type than `FORMS` says; null counts as left out."""
    for field, form in FORMS.items():
        value = payload.get(field)
        if value is not None and not isinstance(value, form):
            raise InvalidInput(f"{field!r} must be {'a list' if form is list else 'an object'} or left out.")


def _check(payload: dict[str, Any]) -> None:
    """Raises InvalidInput for an object that is larger or deeper than any request needs to be."""
    values = 0
    level: list[Any] = []
    for key, value in payload.items():
        if key in TOKEN_FIELDS and isinstance(value, list):
            if _is_tokens(value):
                continue
            level.append([one for one in value if not _is_tokens(one)])
        else:
            level.append(value)
    _check_items(len(payload))
    for _ in range(MAX_DEPTH):
        values += len(level)
        containers = [one for one in level if isinstance(one, dict | list)]
        if not containers:
            return
        level = []
        for container in containers:
            _check_items(len(container))
            level.extend(container.values() if isinstance(container, dict) else container)
            if values + len(level) > MAX_VALUES:
                raise _too_many()
    raise _too_deep()


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and set(map(type, value)) == {int}


def _check_items(items: int) -> None:
    if items > MAX_ITEMS:
        raise InvalidInput(
            f"The request body holds a list or an object of {items} elements; at most {MAX_ITEMS} are taken. Lists of "
            "token ids may be longer."
        )


def _brackets(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _too_deep() -> InvalidInput:
    return InvalidInput(f"The request body is nested too deeply; at most {MAX_DEPTH} levels are taken.")


def _too_many() -> InvalidInput:
    return InvalidInput(f"The request body holds too many values; at most {MAX_VALUES} are taken.")
