"""The edge's own answers: error objects of the API that was called, OpenAI's or Anthropic's.

HAProxy looks each up in a map file, by the name of the API and the name of the error, so that one rule serves both. The
types are those of `specs.errors`, which these programs do not import.
"""

from typing import NamedTuple

#: HAProxy variable with the name of the API that was called; without one it is OpenAI's.
API = "txn.edge_api"
OPENAI, ANTHROPIC = "openai", "anthropic"

#: Seconds after which a request may come again that found no replica or met one that died: Ray replaces a dead replica
#: within some seconds, and HAProxy's checks take one.
RETRY_AFTER_S = 2

#: Most seconds after which a request may come again that found the service full. Each is told another number of them,
#: since those who were refused together would be refused together again.
FULL_SPREAD_S = 5


class Error(NamedTuple):
    """An error that HAProxy answers by itself."""

    status: int
    type: str
    """OpenAI's `error.type`."""
    anthropic_type: str
    code: str | None
    message: str
    retry_after: str | None = None
    """HAProxy's expression of the header `Retry-After`, if it is sent."""


def _own(status: int, kind: str, anthropic: str, message: str, code: str | None = None) -> Error:
    """An error that HAProxy meets itself: those of the service end with the advice to come again."""
    return Error(status, kind, anthropic, code, message, str(RETRY_AFTER_S) if status in {502, 503, 504} else None)


#: What HAProxy may answer by itself, by the name under which a rule refers to it. Those named by a status are HAProxy's
#: own errors (`http-error`).
ERRORS = {
    "400": _own(400, "invalid_request_error", "invalid_request_error", "The request is not valid HTTP."),
    "403": _own(403, "permission_error", "permission_error", "The request was refused at the edge.", "forbidden"),
    "404": _own(404, "invalid_request_error", "not_found_error", "There is no such path.", "not_found"),
    "408": _own(408, "timeout_error", "timeout_error", "The request did not arrive in time.", "request_timeout"),
    "413": _own(413, "invalid_request_error", "request_too_large", "The request body is too large.", "body_too_large"),
    "429": Error(
        429,
        "rate_limit_error",
        "rate_limit_error",
        "router_overloaded",
        "More requests than can be decided on in time. Try again when Retry-After says, or name a model.",
        "%[var(txn.edge_retry_after)]",
    ),
    "500": _own(500, "internal_error", "api_error", "The proxy met an internal error."),
    "501": _own(501, "invalid_request_error", "invalid_request_error", "The proxy does not support this request."),
    "502": _own(
        502, "service_unavailable", "api_error", "The replica closed the connection or sent an invalid answer."
    ),
    "503": _own(
        503, "service_unavailable", "overloaded_error", "No replica is ready to answer; try again shortly.", "not_ready"
    ),
    "504": _own(504, "timeout_error", "api_error", "The replica did not answer in time."),
    "key": Error(
        401,
        "invalid_request_error",
        "authentication_error",
        "invalid_api_key",
        "A valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY.",
    ),
    "rate": Error(
        429,
        "rate_limit_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "The limit of requests a minute of this key is used up. Try again when Retry-After says.",
        "%[var(txn.edge_rate_wait)]",
    ),
    "concurrent": Error(
        429,
        "rate_limit_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "As many requests of this key run as may run at once. Try again when one of them has ended.",
        "1",
    ),
    "share": Error(
        429,
        "rate_limit_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "The service is full, and this key has its share of it. Try again when Retry-After says.",
        f"%[rand({FULL_SPREAD_S}),add(1)]",
    ),
    "source": Error(
        429,
        "rate_limit_error",
        "rate_limit_error",
        "rate_limit_exceeded",
        "Too many connections from this address. Close some, or try again when Retry-After says.",
        str(RETRY_AFTER_S),
    ),
}


def error_body(name: str, api: str = OPENAI) -> str:
    """Return the error object, as JSON in one line, of an error of `ERRORS` for one of the two APIs."""
    error = ERRORS[name]
    if api == ANTHROPIC:
        return f'{{"type": "error", "error": {{"type": "{error.anthropic_type}", "message": "{error.message}"}}}}'
    code = "null" if error.code is None else f'"{error.code}"'
    return f'{{"error": {{"message": "{error.message}", "type": "{error.type}", "param": null, "code": {code}}}}}'


def error_map() -> str:
    """Return HAProxy's map of all error objects, by `<api>-<name>`."""
    return "".join(f"{api}-{name} {error_body(name, api)}\n" for api in (OPENAI, ANTHROPIC) for name in ERRORS)


def _content(name: str, folder: str) -> str:
    body = f"%[var({API},{OPENAI}),concat(-{name}),map_str({folder}/errors.map)]"
    retry_after = ERRORS[name].retry_after
    header = "" if retry_after is None else f" hdr Retry-After {retry_after}"
    return f"status {ERRORS[name].status} content-type application/json lf-string {body}{header}"


def refusal(name: str, folder: str, condition: str, extra: str = "") -> str:
    """Return the rule that answers with an error of `ERRORS` where the condition holds; `extra` are further
    parameters."""
    return f"http-request return {_content(name, folder)}{extra} if {condition}"


def own_errors(folder: str) -> str:
    """Return the lines by which HAProxy's own errors become error objects."""
    return "".join(f"    http-error {_content(name, folder)}\n" for name in ERRORS if name.isdigit() and name != "429")
