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

from serving.openai_errors import ANTHROPIC_PATH, anthropic_type
from specs.errors import LearnwareError

RESPONSES_PATH = "/v1/responses"


class ErrorObject(NamedTuple):
    """An error as a client sees it."""

    status: int
    message: str
    type: str
    code: str | None
    retry_after_s: int | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"message": self.message, "type": self.type, "param": None, "code": self.code}


def error_object(error: Exception) -> ErrorObject:
    """Returns how an error is told: the project's own by their class, vLLM's as vLLM tells them."""
    if isinstance(error, LearnwareError):
        return ErrorObject(error.status, str(error), error.type, error.code, error.retry_after_s)
    told = create_error_response(error).error
    if told.code == HTTPStatus.INTERNAL_SERVER_ERROR:  # what failed inside is for the log, not for clients
        return ErrorObject(told.code, "Something failed inside the server. Try again.", "internal_error", None)
    return ErrorObject(told.code, told.message, told.type, None)


def _of_messages(error: ErrorObject) -> dict[str, Any]:
    return {"type": "error", "error": {"type": anthropic_type(error.status), "message": error.message}}


def error_answer(error: Exception, path: str) -> JSONResponse:
    """Returns the response for an error of a request to `path`, of which nothing was answered yet."""
    told = error_object(error)
    content = _of_messages(told) if path.startswith(ANTHROPIC_PATH) else {"error": told.fields}
    headers = {} if told.retry_after_s is None else {"retry-after": str(told.retry_after_s)}
    return JSONResponse(content, status_code=told.status, headers=headers)


def error_event(error: Exception, path: str, events: int) -> bytes:
    """Returns what ends a stream of server-sent events that was begun for a request to `path`; `events` is the number
    of events before it."""
    told = error_object(error)
    if path.startswith(ANTHROPIC_PATH):
        return _event(_of_messages(told), "error")
    if path.startswith(RESPONSES_PATH):
        flat = {"type": "error", "code": told.code, "message": told.message, "param": None}
        return _event({**flat, "sequence_number": events, "error": told.fields}, "error")
    return _event({"error": told.fields}) + b"data: [DONE]\n\n"


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    head = b"" if name is None else f"event: {name}\n".encode()
    return head + b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
