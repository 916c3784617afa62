"""Parts that the small applications share: routes by the whole path, and errors as OpenAI error objects."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from serving.openai_errors import openai_error
from specs.errors import LearnwareError, UnknownModel


class PrefixedApplication(Starlette):
    """A Starlette application that routes by the whole path, which is what Ray Serve hands on, whatever part of it is
    called the root. Errors become OpenAI error objects."""

    def __init__(self, routes: Sequence[Route]) -> None:
        handlers = {LearnwareError: _answer_error, HTTPException: _answer_http_error}
        super().__init__(routes=routes, exception_handlers=handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].rstrip("/"), "root_path": ""}
        await super().__call__(scope, receive, send)


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, LearnwareError)
    return openai_error(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answers a request to a path or with a method that does not exist."""
    assert isinstance(error, HTTPException)
    answer = openai_error(UnknownModel(f"There is no {request.method} {request.url.path}."))
    answer.status_code = error.status_code
    return answer
