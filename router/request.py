"""Reads a request body as the router receives it: which model is asked for, and which texts the choice is made on.

The body is what a client sent to `/v1/chat/completions`, `/v1/completions` or another of vLLM's JSON routes, cut at the
edge when it is large (Ray 2.60 forwards at most `RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE` bytes, and marks the
cut only when the client sent a `Content-Length`). So every body that does not parse is treated as possibly cut.

What is routed on:

- chat: the user turns, oldest first; the last one decides unless the conversation holds (see `router.conversation`). A
  turn made of content parts counts as its text parts; images and audio say nothing here. Assistant and tool messages
  are ours or a tool's, not the user's, and don't count. A system prompt is put before the *first* turn, since it often
  carries the task's instruction, but only its head: the tail of a long one is policy and examples, which would drown
  the question.
- completion: the prompt; of a list, its first entry. Token ids are decoded with the base model's tokenizer.
- `input` (vLLM's responses and embeddings routes): as a prompt, or as messages.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from partial_json_parser import MalformedJSON, loads as loads_partial

SYSTEM_HEAD_CHARS = 420
"""Characters of a system prompt that are routed on. The instruction lines of 39 public tasks, labels included, have 24
to 415; what stands further down is policy and examples."""

MAX_TURNS = 8
"""User turns looked at: the first (it opens the topic) and the latest seven; bounds the work of one request."""

PARTIAL_PARSE_BYTES = 65_536
"""How much of an unparsable body is read. The tolerant parser is pure Python, about 3 ms for this much; the question of
a request that large is at its head (completion prompt, first turn)."""

DecodeTokens = Callable[[Sequence[int]], str]


class RoutedRequest(NamedTuple):
    """What the router needs of a body. `model` is None when the body names none that could be read; `turns` is empty
    when there is nothing to route on; `whole` is False when the body could not be parsed as it stands."""

    model: str | None
    turns: tuple[str, ...]
    whole: bool


def read_request(body: bytes, decode_tokens: DecodeTokens | None = None) -> RoutedRequest:
    """Never raises: what cannot be read yields an empty request, and the replica's own application tells the client
    what is wrong.

    `decode_tokens` turns token ids of a completion prompt into text; without it such a prompt has no turns.
    """
    try:
        payload, whole = json.loads(body), True
    except (ValueError, RecursionError):
        payload, whole = _parse_cut(body), False
    if not isinstance(payload, Mapping):
        return RoutedRequest(None, (), whole)
    model = payload.get("model")
    return RoutedRequest(model if isinstance(model, str) else None, _turns(payload, decode_tokens), whole)


def _parse_cut(body: bytes) -> Any:
    head = body[:PARTIAL_PARSE_BYTES].decode("utf-8", errors="replace")
    try:
        return loads_partial(head)
    except (MalformedJSON, ValueError, RecursionError, IndexError, AssertionError):
        return None


def _turns(payload: Mapping[str, Any], decode_tokens: DecodeTokens | None) -> tuple[str, ...]:
    messages = payload.get("messages")
    if messages is None and _is_message_list(payload.get("input")):
        messages = payload["input"]
    if isinstance(messages, list):
        instructions = payload.get("instructions", payload.get("system"))
        return _chat_turns(messages, _text_of(instructions))
    prompt = payload.get("prompt", payload.get("input"))
    text = _prompt_text(prompt, decode_tokens)
    return (text,) if text else ()


def _is_message_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _chat_turns(messages: Sequence[Any], instructions: str) -> tuple[str, ...]:
    system: list[str] = [instructions] if instructions else []
    turns: list[str] = []
    for message in messages:
        if not isinstance(message, Mapping):
            continue
        role, text = message.get("role"), _text_of(message.get("content"))
        if not text:
            continue
        if role in ("system", "developer"):
            system.append(text)
        elif role == "user":
            turns.append(text)
    if len(turns) > MAX_TURNS:
        turns = turns[:1] + turns[1 - MAX_TURNS :]
    head = "\n".join(system)[:SYSTEM_HEAD_CHARS]
    if head:
        turns = [f"{head}\n{turns[0]}", *turns[1:]] if turns else [head]
    return tuple(turns)


def _text_of(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        return ""
    parts = (
        part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None for part in content
    )
    return "\n".join(part for part in parts if isinstance(part, str)).strip()


def _prompt_text(prompt: Any, decode_tokens: DecodeTokens | None) -> str:
    if isinstance(prompt, str):
        return prompt.strip()
    if not isinstance(prompt, list) or not prompt:
        return ""
    first = prompt[0]
    if isinstance(first, str):
        return first.strip()
    tokens = first if isinstance(first, list) else prompt
    if decode_tokens is None or not all(type(token) is int and token >= 0 for token in tokens):
        return ""
    return decode_tokens(tokens).strip()
