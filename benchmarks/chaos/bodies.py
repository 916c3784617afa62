"""Malformed bodies, drawn from a grammar of each API's fields: a seed and a number give the very same body again.

Each body begins as a good one. Then some of its fields are left out, or get a value of another type, out of range,
deep, or large; or the bytes of the whole are spoilt. Some bodies stay good by chance, so all of them ask for few tokens
unless it is the field that says so which was changed.
"""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MODEL = "auto"
SAID = "Is the sentiment of this news positive or negative? Sales fell."
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
SAMPLING: dict[str, Any] = {
    "temperature": 0,
    "top_p": 1.0,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 7,
    "n": 1,
    "stop": ["\n"],
    "stop_token_ids": [2],
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repetition_penalty": 1.1,
    "length_penalty": 1.0,
    "logit_bias": {"5": 1.0},
    "bad_words": ["bad"],
    "allowed_token_ids": [5, 6, 7],
    "logprob_token_ids": [5],
    "min_tokens": 0,
    "ignore_eos": False,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "prompt_logprobs": 1,
    "use_beam_search": False,
    "truncate_prompt_tokens": 16,
    "truncation_side": "left",
    "structured_outputs": {"choice": ["yes", "no"]},
    "response_format": {"type": "json_object"},
    "stream": False,
    "stream_options": {"include_usage": True},
    "stream_interval": 1,
    "priority": 0,
    "cache_salt": "salt",
    "request_id": "one",
    "session_id": "one",
    "user": "someone",
    "kv_transfer_params": {},
    "ec_transfer_params": {},
    "vllm_xargs": {"a": 1},
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "return_token_offsets": True,
    "repetition_detection": {"max_pattern_size": 8, "min_count": 3},
    "thinking_token_budget": 4,
    "routed_experts_prompt_start": 0,
    "add_special_tokens": False,
    "echo": False,
}
"""Fields with a good value that chats and completions share."""


class Api(NamedTuple):
    """A path with a good body of it, its further fields, and how it is sent."""

    path: str
    good: Mapping[str, Any]
    more: Mapping[str, Any] = {}
    method: str = "POST"
    is_admin: bool = False
    content_type: str = "application/json"


MESSAGES = [{"role": "user", "content": SAID}]
CHAT_MORE = SAMPLING | {
    "logprobs": True,
    "top_logprobs": 2,
    "max_completion_tokens": 2,
    "tools": [TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning_effort": "low",
    "include_reasoning": True,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "documents": [{"title": "a", "text": "b"}],
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"a": 1},
    "media_io_kwargs": {"image": {}},
    "mm_processor_kwargs": {"a": 1},
    "return_prompt_text": True,
    "return_assistant_tokens_mask": False,
}
COMPLETION_MORE = SAMPLING | {"logprobs": 2, "suffix": "end", "prompt_embeds": "AAAA", "best_of": 1}
SHARED_WITH_RESPONSES = (
    *("temperature", "top_p", "top_k", "stream", "seed", "stop", "user", "logit_bias", "ignore_eos", "priority"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty", "cache_salt", "request_id", "session_id"),
    *("skip_special_tokens", "include_stop_str_in_output", "structured_outputs", "vllm_xargs"),
    *("kv_transfer_params", "ec_transfer_params"),
)
RESPONSES_MORE = {name: SAMPLING[name] for name in SHARED_WITH_RESPONSES} | {
    "instructions": "Be brief.",
    "background": False,
    "include": ["message.output_text.logprobs"],
    "max_tool_calls": 1,
    "metadata": {"a": "b"},
    "parallel_tool_calls": True,
    "previous_response_id": "resp_none",
    "prompt": {"id": "pmpt_none"},
    "reasoning": {"effort": "low"},
    "include_reasoning": True,
    "service_tier": "auto",
    "store": False,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}],
    "top_logprobs": 2,
    "truncation": "auto",
    "prompt_cache_key": "one",
    "media_io_kwargs": {"image": {}},
    "mm_processor_kwargs": {"a": 1},
    "enable_response_messages": False,
    "previous_input_messages": [{"role": "user", "content": "Hello"}],
    "chat_template_kwargs": {"a": 1},
}
ANTHROPIC_MORE = {
    "metadata": {"user_id": "someone"},
    "output_config": {"effort": "low"},
    "stop_sequences": ["\n"],
    "stream": False,
    "system": [{"type": "text", "text": "Be brief."}],
    "temperature": 0,
    "tool_choice": {"type": "auto"},
    "tools": [{"name": "look", "input_schema": {"type": "object"}}],
    "top_k": 5,
    "top_p": 1.0,
    "cache_salt": "salt",
    "kv_transfer_params": {},
    "ec_transfer_params": {},
    "vllm_xargs": {"a": 1},
    "chat_template_kwargs": {"a": 1},
}
ANTHROPIC = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2}
CHAT = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2}
NO_SUCH = "/v1/learnwares/no-such-learnware"

APIS = (
    Api("/v1/chat/completions", CHAT, CHAT_MORE),
    Api("/v1/completions", {"model": MODEL, "prompt": SAID, "max_tokens": 2}, COMPLETION_MORE),
    Api("/v1/responses", {"model": MODEL, "input": SAID, "max_output_tokens": 2, "store": False}, RESPONSES_MORE),
    Api("/v1/messages", ANTHROPIC, ANTHROPIC_MORE),
    Api("/v1/chat/completions/batch", {"model": MODEL, "messages": [MESSAGES], "max_tokens": 2}, CHAT_MORE),
    Api(
        "/inference/v1/generate",
        {"model": MODEL, "token_ids": [5, 6, 7], "sampling_params": {"max_tokens": 2}},
        {
            **{name: SAMPLING[name] for name in ("stream", "stream_options", "priority", "cache_salt", "request_id")},
            "kv_transfer_params": {},
            "ec_transfer_params": {},
            "features": None,
            "content_parts": [{}],
            "token_offsets": [[0, 1]],
            "assistant_tokens_mask": [0, 1, 1],
        },
    ),
    Api("/invocations", CHAT, CHAT_MORE),
    Api("/cohere/v2/chat", CHAT, CHAT_MORE),
    Api("/generative_scoring", {"model": MODEL, "query": SAID, "items": ["yes"], "label_token_ids": [5, 6]}),
    Api("/v1/route", CHAT, CHAT_MORE),
    Api("/v1/messages/count_tokens", ANTHROPIC, ANTHROPIC_MORE),
    Api("/tokenize", {"model": MODEL, "prompt": SAID}, {"add_special_tokens": True, "return_token_strs": True}),
    Api("/detokenize", {"model": MODEL, "tokens": [5, 6, 7]}),
    Api("/v1/task-specs", {"format": 1, "points": [[0.1, 0.2]], "weights": [1.0], "encoder": "none"}),
    Api("/v1/learnwares", {"id": "no-such-learnware"}, is_admin=True, content_type="application/zip"),
    Api(NO_SUCH, {"id": "no-such-learnware"}, method="PUT", is_admin=True, content_type="application/zip"),
    Api(f"{NO_SUCH}/quarantine", {"reason": "none"}, is_admin=True),
)
"""Every path that generates, and those of the market and of tasks. What would change a learnware names one that is not
there."""

DEEP = 3_000
LARGE = 50_000
Draw = random.Random


def _deep(kind: str) -> Any:
    """Returns a value as deep as `DEEP`, as raw JSON, since `json.dumps` refuses to go so deep."""
    opening, closing = ("[", "]") if kind == "list" else ('{"a":', "}")
    return Raw(opening * DEEP + ("" if kind == "list" else "1") + closing * DEEP)


class Raw(NamedTuple):
    """JSON text, or what is none, put in the place of a value as it is."""

    text: str


WRONG: tuple[Callable[[Draw], Any], ...] = (
    lambda _: None,
    lambda draw: draw.choice([True, False]),
    lambda draw: draw.choice([-1, 0, 2**31, 2**63, -(2**63) - 1, 10**30, 17, 4096]),
    lambda draw: draw.choice([-0.5, 1e308, 5e-324, 2.5]),
    lambda draw: Raw(draw.choice(["NaN", "Infinity", "-Infinity", "1e999", "01", "0x1f", "undefined", "'a'"])),
    lambda draw: draw.choice(["", " ", "auto", "none", "\x00", "\n" * 100, "ÿ" * 50, "🙂" * 40, "../../etc/passwd"]),
    lambda draw: Raw(draw.choice(['"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\x"'])),
    lambda draw: "x" * draw.randint(1, LARGE),
    lambda _: [],
    lambda _: {},
    lambda draw: [None] * draw.randint(1, 300),
    lambda draw: {str(number): number for number in range(draw.randint(1, 300))},
    lambda draw: _deep(draw.choice(["list", "object"])),
    lambda draw: [
        {"role": draw.choice(["user", "tool", "none", ""]), "content": draw.choice([None, 5, [], [{}], SAID])}
    ],
    lambda draw: [
        {"type": draw.choice(["text", "image_url", "input_audio", "none"]), "image_url": {"url": "file:///x"}}
    ],
    lambda draw: {"type": draw.choice(["json_schema", "object", "none"]), "json_schema": {"schema": {"$ref": "#"}}},
    lambda draw: {"regex": draw.choice(["(", "a{1,99999}", "(a+)+b", "[" * 50])},
    lambda draw: [draw.randint(-(2**40), 2**40) for _ in range(20)],
    lambda draw: {"5": draw.choice([1e10, None, "a"]), "-1": 0, "a": 1},
    lambda _: "{% for a in range(9**9) %}{{ a }}{% endfor %}",
)
"""Values that are wrong in most places, by kind."""


class Malformed(NamedTuple):
    """A body with its path and how it is sent."""

    number: int
    api: Api
    data: bytes
    headers: Mapping[str, str]
    how: str
    """The changes that were made to a good body, in words."""


def malformed(seed: int, number: int) -> Malformed:
    """Returns the body of this number. Paths come in turns, so that any long enough row has all of them."""
    draw = random.Random(f"{seed}/{number}")
    api = APIS[number % len(APIS)]
    body = dict(api.good)
    for name in draw.sample(sorted(api.more), min(len(api.more), draw.choice([0, 0, 1, 2, 4]))):
        body[name] = api.more[name]
    how = _spoil_fields(draw, body, api)
    text = _dumped(body)
    headers = {"Content-Type": api.content_type}
    data = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.25:
        data, headers, spoilt = _spoil_bytes(draw, data, headers)
        how = f"{how}; {spoilt}"
    return Malformed(number, api, data, headers, how)


def _spoil_fields(draw: Draw, body: dict[str, Any], api: Api) -> str:
    """Changes a body in place and says how."""
    said = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        names = sorted(body) + draw.sample(sorted(api.more), min(3, len(api.more)))
        if not names:
            break
        name = draw.choice(names)
        kind = draw.randrange(len(WRONG) + 2)
        if kind == len(WRONG):
            body.pop(name, None)
            said.append(f"without {name}")
        elif kind == len(WRONG) + 1 and isinstance(body.get(name), (list, dict)) and body[name]:
            body[name] = _inside(draw, body[name])
            said.append(f"changed within {name}")
        else:
            kind %= len(WRONG)
            body[name] = WRONG[kind](draw)
            said.append(f"{name} of kind {kind}")
    return ", ".join(said)


def _inside(draw: Draw, value: Any) -> Any:
    """Returns a copy of a value in which one part, at any depth, is wrong."""
    if isinstance(value, dict) and value:
        name = draw.choice(sorted(value))
        return value | {name: _inside(draw, value[name])}
    if isinstance(value, list) and value:
        place = draw.randrange(len(value))
        return [*value[:place], _inside(draw, value[place]), *value[place + 1 :]]
    return draw.choice(WRONG)(draw)


def _dumped(value: Any) -> str:
    """Returns JSON with what `Raw` says in it."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_dumped(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dumped, value)) + "]"
    return json.dumps(value)


def _spoil_bytes(draw: Draw, data: bytes, headers: dict[str, str]) -> tuple[bytes, dict[str, str], str]:
    """Returns other bytes and headers, and what was done to them."""
    place = draw.randrange(len(data) + 1)
    spoilt: dict[str, Callable[[], tuple[bytes, dict[str, str]]]] = {
        "cut": lambda: (data[:place], headers),
        "empty": lambda: (b"", headers),
        "no JSON": lambda: (draw.randbytes(200), headers),
        "a byte changed": lambda: (data[:place] + draw.randbytes(1) + data[place + 1 :], headers),
        "not UTF-8": lambda: (data.replace(b"a", b"\xff", 3), headers),
        "with a mark of byte order": lambda: (b"\xef\xbb\xbf" + data, headers),
        "in UTF-16": lambda: (data.decode("utf-8", "replace").encode("utf-16"), headers),
        "a list": lambda: (b"[" + data + b"]", headers),
        "a text": lambda: (json.dumps(data.decode("utf-8", "replace")).encode(), headers),
        "twice": lambda: (data + data, headers),
        "the same name twice": lambda: (data[:-1] + b', "model": 5, "model": null}', headers),
        "as a form": lambda: (data, headers | {"Content-Type": "application/x-www-form-urlencoded"}),
        "as multipart": lambda: (data, headers | {"Content-Type": "multipart/form-data; boundary=x"}),
        "an unknown charset": lambda: (data, headers | {"Content-Type": "application/json; charset=none"}),
        "said to be compressed": lambda: (data, headers | {"Content-Encoding": "gzip"}),
        "said to be a zip": lambda: (b"PK\x03\x04" + data, headers | {"Content-Type": "application/zip"}),
    }
    what = draw.choice(sorted(spoilt))
    changed, sent = spoilt[what]()
    return changed, sent, what
