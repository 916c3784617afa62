"""The text of a request's prompt, for records that keep it."""

from collections.abc import Iterator, Mapping
from typing import Any

from serving.decisions.open_record import TEXT_CHARS

_TEXTS = ("messages", "prompt", "input", "query", "message")
"""Fields of the bodies of all APIs that hold what is asked; the first that is there counts."""
_INSTRUCTIONS = ("system", "instructions")
_DEEPEST = 6
"""Levels of lists and objects that are looked into: a batch of conversations of content parts has five."""


def prompt_text(payload: Mapping[str, Any]) -> str:
    """Returns the end of the prompt in a request's body, role by role, at most twice `TEXT_CHARS` characters: what is
    kept is cut after it was redacted. Never raises on odd bodies."""
    asked = next((payload[name] for name in _TEXTS if payload.get(name) is not None), None)
    given = [payload.get(name) for name in _INSTRUCTIONS]
    lines = [*(line for one in given for line in _lines(one, 0)), *_lines(asked, 0)]
    return "\n".join(lines)[-2 * TEXT_CHARS :]


def _lines(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth >= _DEEPEST:
        return
    elif isinstance(value, list):
        if value and all(type(one) is int for one in value):
            yield f"[{len(value)} token ids]"
            return
        for one in value:
            yield from _lines(one, depth + 1)
    elif isinstance(value, Mapping):
        said = value.get("content") if "content" in value else value.get("text")
        role = value.get("role")
        text = "\n".join(_lines(said, depth + 1))
        if text:
            yield f"{role}: {text}" if isinstance(role, str) else text
