"""The ASGI middleware before everything else of a replica: the paths that are there, the key, and the tenant.

The edge has checked both already, but a replica's port can be reached directly by whoever is on its machine or network.
So nothing passes here that the edge would not let through: a path that is not on the allow-list is answered 404, a
request without a key that holds 401, both before its body is read, and a WebSocket is closed. It costs some
microseconds: a look at the list, a SHA-256 digest and a look into a dictionary.
"""

from collections.abc import Callable

from fastapi import FastAPI, HTTPException as FastAPIHTTPException
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access.caller import caller
from serving.access.keyring import Keyring, check_metrics
from serving.access.tenant import Tenant
from serving.names import OPEN_PATHS
from serving.openai_errors import error_response, no_such_method, no_such_path
from specs.errors import LearnwareError

METRICS_PATH = "/metrics"
"""Path that only some keys may read."""
POLICY_VIOLATION = 1008
"""Code with which a WebSocket is closed; before it is accepted, the client sees status 403 (ASGI)."""


class FrontDoor:
    """ASGI middleware (see the module). The tenant of an admitted request is `serving.access.caller.caller` in its
    task, and `tenant` in the scope's state."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring, allowed: Callable[[str], bool]) -> None:
        """Wraps `app`.

        Args:
            keyring: finds a request's tenant by its headers.
            allowed: whether a path, decoded, is on the allow-list.
        """
        self._app = app
        self._keyring = keyring
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        try:
            tenant = self._admit(scope, path)
        except LearnwareError as error:
            await error_response(error, path)(scope, receive, send)
            return
        if tenant is None:
            await self._app(scope, receive, send)
            return
        token = caller.set(tenant)
        try:
            await self._app({**scope, "state": {**scope.get("state", {}), "tenant": tenant}}, receive, send)
        finally:
            caller.reset(token)

    def _admit(self, scope: Scope, path: str) -> Tenant | None:
        """Returns the tenant of a request, None for a path that needs none.

        Raises:
            UnknownPath: the path is not on the list.
            Unauthorized: a key is required, and the request has none that holds.
            Forbidden: the key does not allow what is at the path.
        """
        if not self._allowed(path):
            raise no_such_path(scope["method"], path)
        if path in OPEN_PATHS:
            return None
        tenant = self._keyring.tenant_of(scope["headers"])
        if path == METRICS_PATH:  # vLLM's own, on the replica's port
            check_metrics(tenant)
        return tenant


def add_front_door(app: FastAPI, keyring: Keyring, allowed: Callable[[str], bool]) -> None:
    """Puts a front door before vLLM's application and its own middlewares, and makes what FastAPI itself answers error
    objects.

    vLLM builds its middleware stack early; without the cached stack Starlette builds it again at the next request.
    """
    app.user_middleware.insert(0, Middleware(FrontDoor, keyring=keyring, allowed=allowed))
    answer_with_error_objects(app)
    app.middleware_stack = None


def answer_with_error_objects(app: FastAPI) -> None:
    """Makes FastAPI's own answers to a path or a method that is not there error objects of the API that was called.

    vLLM 0.29 handles FastAPI's exceptions alone; those that routing raises are Starlette's, and would be answered
    `{"detail": …}`.
    """
    otherwise = app.exception_handlers[HTTPException]

    async def answer(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            return error_response(no_such_path(request.method, request.scope["path"]), request.scope["path"])
        if error.status_code == 405:
            answered = error_response(no_such_method(request.method, request.scope["path"]), request.scope["path"])
            answered.headers.update(error.headers or {})  # Allow
            return answered
        return await otherwise(request, error)

    app.exception_handlers.setdefault(FastAPIHTTPException, otherwise)  # what endpoints raise themselves
    app.add_exception_handler(HTTPException, answer)
