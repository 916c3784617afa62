"""Takes out of a request's body, before vLLM validates it, what clients send out of habit and vLLM 0.29 refuses, and
what no client may decide.

Chat front ends and SDKs send every field that they know, also where it says nothing: `"tools": []`, a null, options of
a stream that is none. OpenAI's API takes them; vLLM answers 400. Only what has no effect is taken out. A `tool_choice`
that demands a tool where there is none stays, and is refused.

Priorities are granted by keys (`serving.paging.gate`), and the key "learnware" of a request's extra arguments tells the
scheduler its tenant: neither may come from a client.
"""

from collections.abc import Mapping
from typing import Any

from serving.replica.asked import SAMPLING

PRIORITY_HEADER = b"x-vllm-priority"
"""Header that vLLM 0.29 reads a priority from (`vllm.entrypoints.generate.base.serving.PRIORITY_HEADER`)."""
RESERVED_ARGUMENT = "learnware"
"""Key of vLLM's extra arguments that the gate alone sets."""
NO_CHOICE_OF_TOOLS = ("auto", "none")
"""Values of `tool_choice` that say nothing where there are no tools."""
_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "stop": ("",),
    "response_format": ({},),
    "reasoning_effort": ("", "default"),
    "cache_salt": ("",),
}
"""Values beside null that say nothing, by field."""


def mended(payload: dict[str, Any]) -> dict[str, Any]:
    """Returns the body without what says nothing and what no client may decide; the body itself where all of it may
    stay."""
    drop = {field for field, value in payload.items() if _says_nothing(field, value)}
    if "stream_options" in payload and not payload.get("stream"):
        drop.add("stream_options")
    without_tools = "tools" in drop or "tools" not in payload
    if without_tools and "messages" in payload and payload.get("tool_choice") in NO_CHOICE_OF_TOOLS:
        drop.add("tool_choice")
    change = {
        field: value
        for field, value in (
            ("stop", _without_empty(payload.get("stop"))),
            ("messages", _without_null_names(payload.get("messages"))),
            ("vllm_xargs", _without(payload.get("vllm_xargs"), RESERVED_ARGUMENT)),
            (SAMPLING, _without_reserved(payload.get(SAMPLING))),
        )
        if value is not None
    }
    if not drop and not change:
        return payload
    return {field: change.get(field, value) for field, value in payload.items() if field not in drop}


def _says_nothing(field: str, value: object) -> bool:
    if value is None:
        return field != "model"
    return field == "priority" or (field in _NOTHING and value in _NOTHING[field])


def _without(value: object, key: str) -> dict[str, Any] | None:
    """Returns an object without a key; None where it has none."""
    if not isinstance(value, dict) or key not in value:
        return None
    return {name: one for name, one in value.items() if name != key}


def _without_reserved(sampling: object) -> dict[str, Any] | None:
    if not isinstance(sampling, dict):
        return None
    arguments = _without(sampling.get("extra_args"), RESERVED_ARGUMENT)
    return None if arguments is None else {**sampling, "extra_args": arguments}


def _without_empty(stop: object) -> list[Any] | None:
    """Returns a list of stop strings without empty ones; None where there are none."""
    if not isinstance(stop, list) or "" not in stop:
        return None
    return [one for one in stop if one != ""]


def _without_null_names(messages: object) -> list[Any] | None:
    """Returns the messages without names that are null; None where there are none."""
    if not isinstance(messages, list):
        return None
    if not any(map(_has_null_name, messages)):
        return None
    return [_without(one, "name") or one if _has_null_name(one) else one for one in messages]


def _has_null_name(message: object) -> bool:
    return isinstance(message, dict) and message.get("name", "") is None
