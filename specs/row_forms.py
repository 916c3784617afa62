"""The forms in which people keep the rows of a task, all read as a prompt and its answer.

    prompt / answer                       also `completion`, `response` or `output`; `choices` where there are some
    messages                              OpenAI's chat form: [{"role": …, "content": …}, …]
    conversations                         ShareGPT's: [{"from": "human", "value": …}, …]
    instruction / input / output          Alpaca's; the input stands on the lines below the instruction
    question / answer                     also `query` / `response`

A row's form is told by its columns, whatever their case. A conversation gives one row for each answer in it: the turn
that was answered, with the messages before it, since only with these is a later turn understood.

Training sees these messages as the model is served with them. A specification is made from prompts as the router reads
them (`specs.routed_rows`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from specs.errors import InvalidInput
from specs.rows import ENDINGS, rows_of

KNOWN = (
    "`prompt` and `answer` (or `completion`), `messages`, `conversations`, `instruction` with `input` and `output`, or "
    "`question` and `answer`"
)
"""The forms as an error names them."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}
"""The names that are used for each of the three roles."""
TOOL_ROLES = frozenset({"tool", "function", "function_call", "function_response", "observation", "ipython"})
"""Roles of messages that no text stands for: a conversation is read up to the first of them."""


class Message(NamedTuple):
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class FormedRow(NamedTuple):
    """A row: what the user says, the answer (empty where the file has none), the answers to choose among, and the
    messages before the prompt."""

    prompt: str
    answer: str = ""
    choices: tuple[str, ...] = ()
    before: tuple[Message, ...] = ()


class _Form(NamedTuple):
    """Columns of a form: those that are asked with, one below the other, of which the first must be there, and those
    that may hold the answer."""

    asked: tuple[str, ...]
    answers: tuple[str, ...]


_CONVERSATIONS = ("messages", "conversations", "conversation")
_FORMS = (
    _Form(("prompt",), ("answer", "completion", "response", "output")),
    _Form(("instruction", "input", "context"), ("output", "response", "answer", "completion")),
    _Form(("question", "context"), ("answer", "response", "output")),
    _Form(("query",), ("answer", "response", "output")),
)


def read_formed_rows(path: Path, limit: int | None = None) -> list[FormedRow]:
    """Returns the rows of a file, at most `limit` of them.

    Raises:
        InvalidInput: the file cannot be read, holds no rows, or a row is of no known form; the message names the line,
            the columns found and the forms known.
    """
    found = list(islice((row for _, row in formed_rows(path)), limit))
    if not found:
        raise InvalidInput(f"{path} holds no rows; expected is a {ENDINGS} file with {KNOWN}")
    return found


def formed_rows(path: Path) -> Iterator[tuple[str, FormedRow]]:
    """Yields the rows of a file with their places, as `read_formed_rows` returns them. A text alone, a line of a `.txt`
    file, is a prompt without an answer."""
    for place, item in rows_of(path):
        for row in rows_from(item, place):
            yield place, row


def rows_from(item: Any, place: str) -> list[FormedRow]:
    """Returns the rows that one item of a file stands for: one, or one for each answer of a conversation.

    Raises:
        InvalidInput: it is of no known form; the message begins with `place`.
    """
    if isinstance(item, str) and item.strip():
        return [FormedRow(item)]
    if not isinstance(item, Mapping):
        raise InvalidInput(f"{place}: a row is an object with {KNOWN}, not {_shown(item)}")
    values = {str(name).strip().lower(): value for name, value in item.items()}
    before = _system(values, place)
    for name in _CONVERSATIONS:
        if values.get(name):
            return _conversation([*before, *_messages(values[name], name, place)], _choices(values, place), place)
    if isinstance(values.get("prompt"), list | tuple):
        return _prompt_of_messages(values, before, place)
    form = next((form for form in _FORMS if form.asked[0] in values), None)
    if form is None:
        columns = ", ".join(map(str, item)) or "none"
        raise InvalidInput(
            f"{place}: a row needs a `prompt` with some text, or another known form; the columns are {columns}; known "
            f"are {KNOWN}"
        )
    return [_row(form, values, before, place)]


def _row(form: _Form, values: Mapping[str, Any], before: Sequence[Message], place: str) -> FormedRow:
    asked = [_text(values, name, place) for name in form.asked]
    if not asked[0].strip():
        raise InvalidInput(f"{place}: a row needs a `{form.asked[0]}` with some text")
    answers = [_text(values, name, place) for name in form.answers]
    answer = next((answer for answer in answers if answer.strip()), "")
    prompt = "\n".join(part for part in asked if part.strip())
    return FormedRow(prompt, answer, _choices(values, place), tuple(before))


def _text(values: Mapping[str, Any], name: str, place: str) -> str:
    value = values.get(name)
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # a number in a typed column
    if not isinstance(value, str):
        raise InvalidInput(f"{place}: `{name}` must be a text, not {_shown(value)}")
    return value


def _system(values: Mapping[str, Any], place: str) -> list[Message]:
    name = "system_prompt" if "system_prompt" in values else "system"
    text = _text(values, name, place)
    return [Message("system", text)] if text.strip() else []


def _choices(values: Mapping[str, Any], place: str) -> tuple[str, ...]:
    choices = values.get("choices") or ()
    if isinstance(choices, str) and choices.lstrip().startswith("["):  # a cell of a table
        try:
            choices = json.loads(choices)
        except (ValueError, RecursionError):
            choices = None
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        raise InvalidInput(f"{place}: `choices` must be a list of texts")
    return tuple(choices)


def _messages(value: Any, name: str, place: str) -> list[Message]:
    """Returns the messages of a conversation up to the first of a tool."""
    if isinstance(value, str):  # a cell of a table
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    if not isinstance(value, list | tuple) or not all(isinstance(one, Mapping) for one in value):
        raise InvalidInput(
            f'{place}: `{name}` must be a list of messages, {{"role": "user", "content": "…"}} or '
            '{"from": "human", "value": "…"}'
        )
    found: list[Message] = []
    for one in value:
        said = str(one.get("role") or one.get("from") or "").strip().lower()
        if said in TOOL_ROLES or one.get("tool_calls"):
            break
        if said not in ROLES:
            raise InvalidInput(
                f"{place}: a message of `{name}` has the role {said or 'none'!r}; known are {', '.join(ROLES)}"
            )
        content = _content(one.get("content") if "content" in one else one.get("value"), name, place)
        if content.strip():
            found.append(Message(ROLES[said], content))
    return found


def _content(content: Any, name: str, place: str) -> str:
    """Returns a message's text: a string, or the text parts of a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content):
        return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise InvalidInput(f"{place}: the content of a message of `{name}` must be a text, not {_shown(content)}")


def _prompt_of_messages(values: Mapping[str, Any], before: Sequence[Message], place: str) -> list[FormedRow]:
    """Reads a `prompt` that is itself a list of messages; its answer is a text or messages too."""
    messages = [*before, *_messages(values["prompt"], "prompt", place)]
    for name in _FORMS[0].answers:
        given = values.get(name)
        if isinstance(given, list | tuple):
            messages += _messages(given, name, place)
        elif given:
            messages.append(Message("assistant", _text(values, name, place)))
        if given:
            break
    return _conversation(messages, _choices(values, place), place)[-1:]


def _conversation(messages: Sequence[Message], choices: tuple[str, ...], place: str) -> list[FormedRow]:
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise InvalidInput(f"{place}: the conversation has no message of the user")
    rows = []
    for number in users:
        follows = messages[number + 1] if number + 1 < len(messages) else None
        if follows is not None and follows.role == "assistant":
            rows.append(FormedRow(messages[number].content, follows.content, choices, tuple(messages[:number])))
    # a conversation that ends with the user's turn: a prompt without an answer, where nothing else is answered
    return rows or [FormedRow(messages[users[-1]].content, "", choices, tuple(messages[: users[-1]]))]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
