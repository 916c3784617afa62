"""Reads a request body as the router receives it: the model that is asked for, and the texts to choose by.

The body is the one that a client sent to `/v1/chat/completions`, `/v1/completions` or another of vLLM's JSON routes
(`serving.names.GENERATING_PATHS`; the router is not told which one, so the body is read by its fields), cut by HAProxy
when it is large (Ray 2.60 forwards at most `RAY_SERVE_HAPROXY_INGRESS_REQUEST_ROUTER_BUFSIZE` bytes, and marks the cut
only when the client sent a `Content-Length`). So every body that does not parse is treated as possibly cut.

A request has one or more *prompts*, each a conversation (`router.turn`):

- chat: one. The user's turns, oldest first, without what programs wrote into them (`router.wrappers`). A turn made of
  content parts counts as its text parts; images, audio and results of tools say nothing here. Assistant and tool
  messages are ours or a tool's, not the user's, and don't count. The system prompt counts for
  every turn, a long one with its ends.
- `/v1/chat/completions/batch` (vLLM 0.29): `messages` is a list of conversations.
- completion: the prompt, or each of a list. Token ids are decoded with the base model's tokenizer, those of
  `/inference/v1/generate` (`token_ids`) as well.
- `/v1/responses`: `input` is the user's one turn, or items, of which the messages count as in a chat; `instructions` is
  the system prompt. Earlier turns that `previous_response_id` stands for are not in the body (and vLLM keeps none).
- `/v1/messages`: as a chat, with the system prompt in `system`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from partial_json_parser import MalformedJSON, loads as loads_partial

from router.turn import Conversation
from router.wrappers import OwnWords, RequestSettings

MAX_PROMPTS = 32
"""The most prompts of one request that are looked at, spread evenly over all, the first and the last among them: a kind
that is 10 % of a large request is seen in 97 of 100, and looking at all of 1,000 would take a router longer than its
deadline."""

PARTIAL_PARSE_BYTES = 65_536
"""Bytes of an unparsable body that are read. The tolerant parser is pure Python, about 3 ms for this much; the question
of a request that large is at its head (completion prompt, first turn)."""

EDGE_TOKENS = 2048
"""Tokens that are decoded at each end of a prompt of token ids: a token is a character or more, and no encoder reads
on."""

_NOT_TEXT = frozenset({"tool_result", "tool_use", "tool_call", "function_call", "function_call_output", "thinking"})
"""Types of content parts that may hold text which nobody wrote."""

_BILLING = "x-anthropic-billing-header"
"""How a part of a system prompt begins that a client wrote for its provider's accounts. vLLM 0.29 leaves it out of what
the model reads; it is another one with each request, so with it no turn would be known again (`router.conversation`).
"""

DecodeTokens = Callable[[Sequence[int]], str]
"""Turns token ids into text."""

DEFAULT_WORDS = OwnWords(RequestSettings())
"""Tells the user's own words by the default settings."""


class RoutedRequest(NamedTuple):
    """The facts of a body that the router needs. `model` is None when the body names none that could be read; `prompts`
    is empty when there is nothing to route on, and holds a conversation without turns for a prompt that says nothing;
    `whole` is False when the body could not be parsed as it stands."""

    model: str | None
    prompts: tuple[Conversation, ...]
    whole: bool


def read_request(
    body: bytes, decode_tokens: DecodeTokens | None = None, words: OwnWords = DEFAULT_WORDS
) -> RoutedRequest:
    """Reads a body. Never raises: a body that cannot be read yields an empty request, and the replica's own application
    tells the client what is wrong.

    `decode_tokens` turns token ids of a completion prompt into text; without it such a prompt has no turns.
    """
    try:
        payload, whole = json.loads(body), True
    except (ValueError, RecursionError):
        payload, whole = _parse_cut(body), False
    if not isinstance(payload, Mapping):
        return RoutedRequest(None, (), whole)
    model = payload.get("model")
    return RoutedRequest(model if isinstance(model, str) else None, _prompts(payload, decode_tokens, words), whole)


def _parse_cut(body: bytes) -> Any:
    head = body[:PARTIAL_PARSE_BYTES].decode("utf-8", errors="replace")
    try:
        return loads_partial(head)
    except (MalformedJSON, ValueError, RecursionError, IndexError, AssertionError):
        return None


def _prompts(
    payload: Mapping[str, Any], decode_tokens: DecodeTokens | None, words: OwnWords
) -> tuple[Conversation, ...]:
    messages, prompt = payload.get("messages"), payload.get("prompt", payload.get("token_ids"))
    if messages is None and prompt is None:
        messages = _messages_of_input(payload.get("input"))
    if isinstance(messages, list):
        instructions = _system_text(payload.get("instructions") or payload.get("system"))
        conversations = _spread(messages) if _is_list_of(messages, list) else [messages]
        return tuple(_conversation(one, instructions, words) for one in conversations)
    if prompt is None:
        prompt = payload.get("input")
    if isinstance(prompt, list) and not _is_list_of(prompt, int):
        prompts = _spread(prompt)
    else:
        prompts = [] if prompt is None else [prompt]
    return tuple(_conversation_of_one(_prompt_text(one, decode_tokens), words) for one in prompts)


def _messages_of_input(given: Any) -> list[Any] | None:
    """The `input` of `/v1/responses` as messages: a text is the user's one. None when it is neither."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return given if _is_list_of(given, Mapping) else None


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _spread(prompts: Sequence[Any]) -> list[Any]:
    """Returns at most MAX_PROMPTS of the prompts, spread evenly."""
    if len(prompts) <= MAX_PROMPTS:
        return list(prompts)
    return [prompts[n * (len(prompts) - 1) // (MAX_PROMPTS - 1)] for n in range(MAX_PROMPTS)]


def _conversation(messages: Any, instructions: str, words: OwnWords) -> Conversation:
    system: list[str] = [instructions] if instructions else []
    said: list[str] = []
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, Mapping):
            continue
        role, content = message.get("role"), message.get("content")
        if role in ("system", "developer") and (text := _system_text(content)):
            system.append(text)
        elif role == "user" and (text := _text_of(content)):
            said.append(text)
    instruction = "\n".join(system)
    # where nothing but wrappers was said, the last one has to do
    turns = tuple(filter(None, map(words.of, said))) or tuple(said[-1:])
    return Conversation(words.of_system(instruction), turns) if turns else _conversation_of_one(instruction, words)


def _conversation_of_one(text: str, words: OwnWords) -> Conversation:
    text = words.of(text) or text
    return Conversation("", (text,) if text else ())


def _text_of(content: Any) -> str:
    """Returns the text of a message's content: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        return ""
    return "\n".join(part for part in map(_text_of_part, content) if isinstance(part, str)).strip()


def _system_text(content: Any) -> str:
    """The text of a system prompt, without what is no instruction."""
    parts = content if isinstance(content, list) else [content]
    return _text_of([part for part in parts if not _text_of([part]).startswith(_BILLING)])


def _text_of_part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    kind = part.get("type")
    return None if isinstance(kind, str) and kind in _NOT_TEXT else part.get("text")


def _prompt_text(prompt: Any, decode_tokens: DecodeTokens | None) -> str:
    if isinstance(prompt, str):
        return prompt.strip()
    if decode_tokens is None or not isinstance(prompt, list) or not prompt:
        return ""
    tokens = prompt if len(prompt) <= 2 * EDGE_TOKENS else prompt[:EDGE_TOKENS] + prompt[-EDGE_TOKENS:]
    if not all(type(token) is int and token >= 0 for token in tokens):
        return ""
    return decode_tokens(tokens).strip()
