"""`/console/`: the pages in the browser and what only they ask for, a Ray Serve application of its own.

    GET /console/…             the pages' files; anybody gets them, since nothing of the stack is in them
    GET /console/api/session   who the key belongs to, and what this stack has; any key
    GET /console/api/live      the state of the stack (`serving.applications.live`); who may read the metrics

Everything else the pages fetch from the API that all clients use, with the key that their user has typed into the tab.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, NamedTuple

from ray import serve
from ray.serve.deployment import Application
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from router.ray_internals import keep_grpc_on_loopback
from serving.applications.access import Access, configured_access
from serving.applications.console_files import SECURITY_HEADERS, PageFiles
from serving.applications.live import live_state
from serving.applications.metrics import scraper_of
from serving.applications.routing import PrefixedApplication
from serving.config import Config
from serving.config_sections import MIB
from serving.names import APPLICATION, CONSOLE_API, CONSOLE_APPLICATION, CONSOLE_PATH, ENGINE, ROUTER

ROUTE_PREFIX = CONSOLE_PATH.rstrip("/")
"""Path below which the application answers."""
API = f"{CONSOLE_API}/"
"""Beginning of the paths that need a key."""
FRESH_S = 0.9
"""Seconds for which one scrape serves all who look: pages ask every second or two, and each scrape asks every
replica."""

Scrape = Callable[[], Awaitable[str]]
"""Returns the exposition of all processes of the stack."""


class About(NamedTuple):
    """The facts of a stack that the pages need before they ask it anything."""

    base: str
    """The base model's id."""
    auto: tuple[str, ...]
    """Names by which a request asks for a choice."""
    decisions: bool
    """Whether decisions are recorded, and so feedback is taken."""
    learns: bool
    """Whether feedback changes what is chosen."""
    max_upload_bytes: int


class ConsoleAPI:
    """The routes of `/console`. It knows nothing of Ray: the function that scrapes is passed in."""

    def __init__(
        self,
        files: PageFiles,
        access: Access,
        about: About,
        scrape: Scrape,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._access = access
        self._about = about
        self._scrape = scrape
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self._state: dict[str, Any] = {}
        self._scraped = float("-inf")

    def application(self) -> Starlette:
        """Builds the ASGI application."""
        return _Headed(
            [
                Route(f"{API}session", self._session, methods=["GET"]),
                Route(f"{API}live", self._live, methods=["GET"]),
                Route(f"{API}{{path:path}}", self._nothing, methods=["GET"]),
                Route(ROUTE_PREFIX, self._file, methods=["GET"]),
                Route(f"{ROUTE_PREFIX}/{{path:path}}", self._file, methods=["GET"]),
            ]
        )

    async def _file(self, request: Request) -> Response:
        answer = self._files.answer(request.path_params.get("path", ""), request)
        if answer is None:
            raise HTTPException(404)
        return answer

    async def _nothing(self, request: Request) -> Response:
        self._access.check_read(request)
        raise HTTPException(404)

    async def _session(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        described = {
            "tenant": tenant.name,
            "admin": tenant.admin,
            "metrics": tenant.metrics,
            "keys": self._access.keyring.required,
            "changes": self._access.keyring.has_admin_key,
            "version": version("learnware-serving"),
            **self._about._asdict(),
        }
        return JSONResponse(described, headers={"cache-control": "no-store"})

    async def _live(self, request: Request) -> Response:
        self._access.check_metrics(request)
        async with self._one_at_a_time:
            if self._clock() - self._scraped >= FRESH_S:
                text = await self._scrape()
                self._state = await asyncio.to_thread(live_state, text, time.time())
                self._scraped = self._clock()
            state = self._state
        return JSONResponse(state, headers={"cache-control": "no-store"})


class _Headed(PrefixedApplication):
    """Puts the headers of `SECURITY_HEADERS` on every answer, and compresses the API's."""

    def build_middleware_stack(self) -> ASGIApp:
        plain: ASGIApp = super().build_middleware_stack()
        compressing: ASGIApp = GZipMiddleware(plain)  # files have their own compressed form

        async def headed(scope: Any, receive: Any, send: Any) -> None:
            async def send_headed(message: Any) -> None:
                if message["type"] == "http.response.start":
                    own = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                    message = {**message, "headers": [*message.get("headers", ()), *own]}
                await send(message)

            inner = compressing if scope.get("path", "").startswith(API) else plain
            await inner(scope, receive, send_headed)

        return headed


class ConsoleServer:
    """The application's one replica."""

    def __init__(self, exporter_url: str | None, access: Access, about: About, on_loopback: bool) -> None:
        if on_loopback:
            keep_grpc_on_loopback()
        scraper = scraper_of(APPLICATION, (ENGINE, ROUTER), exporter_url)
        self._api = ConsoleAPI(PageFiles(), access, about, scraper.scrape)

    async def __serve_build_asgi_app__(self) -> Starlette:
        return self._api.application()


def about(config: Config) -> About:
    """Returns what the pages should know of a stack of this configuration."""
    return About(
        config.base_model.served_id,
        tuple(config.router.auto_names),
        config.decisions.enabled,
        config.feedback.learn,
        int(config.market.max_upload_mib * MIB),
    )


def console_application(config: Config, exporter_url: str | None, *, on_loopback: bool) -> Application:
    """Builds the application to run with `route_prefix=ROUTE_PREFIX`.

    Args:
        exporter_url: HAProxy's exporter; None shows none.
        on_loopback: the stack is this machine's alone.
    """
    deployment = serve.deployment(
        serve.ingress()(ConsoleServer),
        name=CONSOLE_APPLICATION,
        graceful_shutdown_wait_loop_s=0.1,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": 0},
    )
    built: Application = deployment.bind(exporter_url, configured_access(config), about(config), on_loopback)
    return built
