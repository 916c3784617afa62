"""Errors in the form of the API that was called: as a response while nothing of the answer was sent, and as the last
event of a stream after that.

    Chat Completions, Completions   data: {"error": {…}}  and  data: [DONE]
    Responses                       event: error, with a sequence number
    Messages                        event: error, as Anthropic sends it

OpenAI's client raises on `error` in an event's data, whatever the event's name. The API's own description of the
Responses event has the fields beside each other instead, so that event holds both.
"""

import json
from http import HTTPStatus
from typing import Any, NamedTuple

from starlette.responses import JSONResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

from serving.openai_errors import ANTHROPIC_PATH, error_content, error_response
from specs.errors import InvalidInput, LearnwareError

RESPONSES_PATH = "/v1/responses"


class ErrorObject(NamedTuple):
    """An error as a client sees it."""

    status: int
    message: str
    type: str
    code: str | None

    def content(self, path: str) -> dict[str, Any]:
        """Returns the error object of the API that `path` belongs to."""
        return error_content(path, *self)


def error_object(error: Exception) -> ErrorObject:
    """Returns how an error is told: the project's own by their class, vLLM's as vLLM tells them."""
    if isinstance(error, LearnwareError):
        return ErrorObject(error.status, str(error), error.type, error.code)
    if isinstance(error, OverflowError) or (isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8"):
        # the client's own values, which vLLM takes and cannot hand to its engine core
        return error_object(InvalidInput("The request holds a number or a text that cannot be represented."))
    told = create_error_response(error).error
    if told.code == HTTPStatus.INTERNAL_SERVER_ERROR:  # what failed inside is for the log, not for clients
        return ErrorObject(told.code, "Something failed inside the server. Try again.", "internal_error", None)
    return ErrorObject(told.code, told.message, told.type, None)


def error_answer(error: Exception, path: str) -> JSONResponse:
    """Returns the response for an error of a request to `path`, of which nothing was answered yet."""
    if isinstance(error, LearnwareError):
        return error_response(error, path)
    told = error_object(error)
    return JSONResponse(told.content(path), status_code=told.status)


def error_event(error: Exception, path: str, events: int) -> bytes:
    """Returns what ends a stream of server-sent events that was begun for a request to `path`; `events` is the number
    of events before it."""
    told = error_object(error)
    content = told.content(path)
    if path.startswith(RESPONSES_PATH):
        flat = {"type": "error", "code": told.code, "message": told.message, "param": None}
        return _event({**flat, "sequence_number": events, **content}, "error")
    if path.startswith(ANTHROPIC_PATH):
        return _event(content, "error")
    return _event(content) + b"data: [DONE]\n\n"


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
