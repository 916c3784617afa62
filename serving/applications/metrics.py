"""One scrape that shows every process: a small Ray Serve application on `/metrics`.

On each scrape the application calls `metrics_text` on every replica of the engine and of the router
(`DeploymentHandle.broadcast`), marks each replica's series with the labels `deployment` and `replica`, and appends the
exporter of the HAProxy beside it, marked `deployment="haproxy"`. Through HAProxy alone, `/metrics` would reach one
replica at random. Where keys are required, the admin key reads it, and those that say so.

A replica that is dead, slow or broken costs its own series only: `learnware_scrape_success{deployment,replica}` is 1
for each replica that answered and 0 for one that answered a scrape before but not this one;
`learnware_scrape_failures{deployment}` counts, for this scrape, the calls that failed.

On many nodes, engine and router replicas are reached wherever they run, so one scrape of any node still shows all of
them. HAProxy runs on every node, and only the one beside this application is appended; let Prometheus scrape the
others' exporters directly (`deploy/`).
"""

import asyncio
import logging
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ray import serve
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.ray_internals import keep_grpc_on_loopback
from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.broadcast import broadcast
from serving.applications.exposition import CONTENT_TYPE, Exposition, escape, merge
from serving.applications.routing import PrefixedApplication

logger = logging.getLogger("ray.serve")

ROUTE_PREFIX = "/metrics"
"""Path at which the application answers."""

REPLICA_TIMEOUT_S = 3.0
"""Seconds that one replica may take. An idle one takes milliseconds, one whose event loop is held up by work on the
same CPU longer; Prometheus gives up on the whole scrape after 10 s by default."""

FORGET_AFTER_S = 600.0
"""Seconds for which a replica that has answered once is reported as missing; after that it has been replaced, not
lost."""

REPLICA_LINE = "# replica "
"""Beginning of the first line of `metrics_text`, before the replica's id. It is a comment, so the text stays a valid
exposition."""


class Answer(NamedTuple):
    """One replica's id and metrics."""

    replica: str
    text: str


Collect = Callable[[], Awaitable[list[str | BaseException]]]
"""Asks every replica of one deployment for its `metrics_text`."""


class Scraper:
    """Collects, marks and merges metrics. It knows nothing of Ray: the functions that ask a deployment's replicas are
    passed in."""

    def __init__(
        self, collectors: Mapping[str, Collect], exporter_url: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._collectors = dict(collectors)
        self._exporter_url = exporter_url
        self._clock = clock
        self._seen: dict[tuple[str, str], float] = {}

    async def scrape(self) -> str:
        """Returns the merged exposition. It never fails as a whole."""
        names = list(self._collectors)
        collected = await asyncio.gather(*(self._ask(name) for name in names), self._exporter())
        parts: list[Exposition] = []
        failures: dict[str, int] = {}
        now = self._clock()
        for name, answers in zip(names, collected[:-1], strict=True):
            failures[name] = 0
            for answer in answers:
                try:
                    replica, text = _parse(answer)
                    part = Exposition({"deployment": name, "replica": replica}, text)
                    merge([part])
                except Exception as error:  # noqa: BLE001
                    failures[name] += 1
                    logger.warning("a replica of %s gave no metrics: %r", name, error)
                else:
                    parts.append(part)
                    self._seen[name, replica] = now
        exporter = collected[-1][0]
        if isinstance(exporter, str):
            parts.append(Exposition({"deployment": "haproxy"}, exporter))
        else:
            failures["haproxy"] = 1
        return merge([*parts, Exposition({}, self._health(now, failures))])

    async def _ask(self, name: str) -> list[str | BaseException]:
        try:
            return await self._collectors[name]()
        except Exception as error:  # noqa: BLE001
            return [error]

    async def _exporter(self) -> list[str | BaseException]:
        if self._exporter_url is None:
            return [""]
        try:
            return [await asyncio.to_thread(_get, self._exporter_url)]
        except Exception as error:  # noqa: BLE001
            return [error]

    def _health(self, now: float, failures: Mapping[str, int]) -> str:
        self._seen = {key: last for key, last in self._seen.items() if now - last <= FORGET_AFTER_S}
        lines = [
            "# HELP learnware_scrape_success Whether this replica's metrics are in this scrape.",
            "# TYPE learnware_scrape_success gauge",
        ]
        lines += [
            f'learnware_scrape_success{{deployment="{escape(name)}",replica="{escape(replica)}"}} {int(last == now)}'
            for (name, replica), last in self._seen.items()
        ]
        lines += [
            "# HELP learnware_scrape_failures Replicas that gave no metrics in this scrape.",
            "# TYPE learnware_scrape_failures gauge",
        ]
        lines += [
            f'learnware_scrape_failures{{deployment="{escape(name)}"}} {count}' for name, count in failures.items()
        ]
        return "\n".join(lines) + "\n"


def _parse(answer: str | BaseException) -> Answer:
    if isinstance(answer, BaseException):
        raise answer
    first, _, text = answer.partition("\n")
    if not first.startswith(REPLICA_LINE):
        raise ValueError(
            f"metrics_text must begin with {REPLICA_LINE!r} and the replica's id; it begins with {first[:80]!r}"
        )
    return Answer(first.removeprefix(REPLICA_LINE).strip(), text)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=REPLICA_TIMEOUT_S) as response:  # noqa: S310
        body: bytes = response.read()
    return body.decode()


class MetricsServer:
    """The application's one replica."""

    def __init__(
        self,
        application: str,
        deployments: Sequence[str],
        exporter_url: str | None,
        on_loopback: bool,
        access: Access | None = None,
    ) -> None:
        if on_loopback:
            keep_grpc_on_loopback()
        self._access = access or Access(Keyring())
        self._scraper = scraper_of(application, deployments, exporter_url)

    async def __serve_build_asgi_app__(self) -> PrefixedApplication:
        return PrefixedApplication([Route(ROUTE_PREFIX, self._metrics)])

    async def _metrics(self, request: Request) -> Response:
        self._access.check_metrics(request)
        return Response(await self._scraper.scrape(), media_type=CONTENT_TYPE)


def scraper_of(application: str, deployments: Sequence[str], exporter_url: str | None) -> Scraper:
    """Makes a scraper of the deployments of a running application."""
    return Scraper({name: _collector(application, name) for name in deployments}, exporter_url)


def _collector(application: str, deployment: str) -> Collect:
    """Makes the function that asks every replica of a deployment. The deployment's handle is made at the first scrape
    that finds it: `serve deploy` starts the applications of one file in any order, and a handle of a deployment that
    does not exist yet raises KeyError."""
    handle: DeploymentHandle[Any] | None = None

    async def collect() -> list[str | BaseException]:
        nonlocal handle
        if handle is None:
            # in a thread: it asks Serve's controller and waits for the answer
            handle = await asyncio.to_thread(serve.get_deployment_handle, deployment, app_name=application)
        return await broadcast(handle, "metrics_text", REPLICA_TIMEOUT_S)

    return collect


def metrics_application(
    application: str,
    deployments: Sequence[str],
    exporter_url: str | None,
    *,
    on_loopback: bool = True,
    access: Access | None = None,
) -> Application:
    """Builds the application to run with `route_prefix=ROUTE_PREFIX` beside the one whose deployments it shows.

    Each deployment must have a method `metrics_text() -> str`, whose text begins with a `REPLICA_LINE`.

    Args:
        application: name of the application that is shown.
        deployments: names of its deployments.
        exporter_url: HAProxy's exporter, such as http://127.0.0.1:9101/metrics; None shows none.
        on_loopback: the stack is this machine's alone.
        access: the rules by which it is read; None lets everybody.
    """
    deployment = serve.deployment(
        serve.ingress()(MetricsServer),
        name="metrics",
        graceful_shutdown_wait_loop_s=0.1,
        ray_actor_options={"num_cpus": 0},
    )
    built: Application = deployment.bind(application, list(deployments), exporter_url, on_loopback, access)
    return built
