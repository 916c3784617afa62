"""Error objects of the API that was called, OpenAI's or Anthropic's, made from the project's errors."""

from typing import Any

from starlette.responses import JSONResponse

from specs.errors import LearnwareError, Unauthorized, UnknownPath, WrongMethod

ANTHROPIC_PATH = "/v1/messages"
"""Path at and below which errors have Anthropic's form."""
LONGEST_SHOWN_PATH = 200
"""Characters of a path that a message repeats."""

ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Types of Anthropic's errors by status; other statuses below 500 are `invalid_request_error`, from 500 `api_error`."""


def error_response(error: LearnwareError, path: str) -> JSONResponse:
    """Returns the response for an error of a request to `path`, in the form of the API that was called. Its status is
    the error's own; it has `Retry-After` where the error says when to come back, and `WWW-Authenticate` where a key is
    needed. Every error that a client sees from Python goes through here."""
    content = error_content(path, error.status, str(error), error.type, error.code)
    return JSONResponse(content, status_code=error.status, headers=_headers(error))


def error_content(path: str, status: int, message: str, kind: str, code: str | None) -> dict[str, Any]:
    """Returns an error object of the API that `path` belongs to: Anthropic's, or OpenAI's with `kind` as its type."""
    if _below(path, ANTHROPIC_PATH):
        return {"type": "error", "error": {"type": anthropic_type(status), "message": message}}
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic_type(status: int) -> str:
    """Returns Anthropic's error type for a status."""
    return ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def no_such_path(method: str, path: str) -> UnknownPath:
    """Returns the error for a path that is not there."""
    return UnknownPath(f"There is no {method} {_shown(path)}; the documentation of the HTTP API lists all paths.")


def no_such_method(method: str, path: str) -> WrongMethod:
    """Returns the error for a method that a path does not take."""
    return WrongMethod(f"There is no {method} {_shown(path)}, but other methods of this path.")


def _shown(path: str) -> str:
    """Returns the beginning of a path, with what cannot be printed escaped."""
    return repr(path[:LONGEST_SHOWN_PATH])[1:-1]


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def _headers(error: LearnwareError) -> dict[str, str]:
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    return headers
