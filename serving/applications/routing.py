"""Parts that the small applications share: routes by the whole path, and errors as error objects."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.openai_errors import error_response, no_such_method, no_such_path
from serving.tracing.context import correlated
from serving.tracing.logs import begin_json_logs
from specs.errors import LearnwareError


class PrefixedApplication(Starlette):
    """A Starlette application that routes by the whole path, which is what Ray Serve hands on, whatever part of it is
    called the root. Errors become error objects of the API that was called."""

    def __init__(self, routes: Sequence[Route]) -> None:
        handlers = {LearnwareError: _answer_error, HTTPException: _answer_http_error, Exception: _answer_failure}
        super().__init__(routes=routes, exception_handlers=handlers)
        begin_json_logs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        scope = {**scope, "path": scope["path"].rstrip("/"), "root_path": ""}
        with correlated(scope):  # for the log
            await super().__call__(scope, receive, send)


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LearnwareError)
    return error_response(error, request.scope["path"])


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answers a request to a path or with a method that does not exist."""
    assert isinstance(error, HTTPException)
    wrong = no_such_method if error.status_code == 405 else no_such_path
    answer = error_response(wrong(request.method, request.scope["path"]), request.scope["path"])
    answer.status_code = error.status_code
    answer.headers.update(error.headers or {})  # Allow
    return answer


async def _answer_failure(request: Request, _error: Exception) -> Response:
    """Answers a request that failed for a reason unknown; Starlette raises the error again, for the log."""
    return error_response(LearnwareError("Something failed inside the server."), request.scope["path"])
