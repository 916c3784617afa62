"""The market's application as Ray Serve runs it: the one replica that writes the market, and what it asks of others.

`serving.applications.market` has the routes. Here are the engine's trial of a submission, the wait until routers and
engine replicas have followed a change, and the calls that come over Ray handles: of an engine replica that could not
load a version, and of the rule that decides on canaries.
"""

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.deployment import Application
from starlette.applications import Starlette

from router.ray_internals import keep_grpc_on_loopback
from serving.applications.access import Access, configured_access
from serving.applications.broadcast import broadcast
from serving.applications.liveness import HEALTH_OPTIONS, check_threads
from serving.applications.market import MarketAPI
from serving.applications.upload_line import in_thread
from serving.config import Config
from serving.names import APPLICATION, ENGINE, MARKET, ROUTER
from serving.requirements import market_requirements
from specs.canary import learnware_of
from specs.engine_name import engine_name
from specs.errors import NotReady
from specs.market.checks import Requirements
from specs.market.child_checks import ChildChecks
from specs.market.journal import State
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import Trial

logger = logging.getLogger("ray.serve")

PROBE_TIMEOUT_S = 120.0
"""Seconds that an engine may take for the trial beside all other requests: `LIMIT_S` and `MORE_LIMIT_S` of
`serving.replica.trial`, and the measurement, whose limits are `HARD_LIMIT_S` and, the first time, `BASE_LIMIT_S` of
`serving.replica.off_task_meter`."""
FOLLOW_TIMEOUT_S = 5.0
"""Seconds that a change waits for the replicas before it is answered; they look every quarter of a second."""

ONGOING = 1000
"""The most requests that Ray hands to the application at a time. Each kind is bounded before: uploads by their line,
others by their threads; Ray's own five would make reads wait for uploads."""
LOCK_S = 2.0
"""Seconds that a change over HTTP waits for the command line's, before it is answered 503."""


def running_canaries(market: Market) -> list[dict[str, Any]]:
    """Returns the canaries that are served, as `MarketServer.canaries` gives them."""
    return [
        {
            "id": learnware_of(record.id),
            "version": record.version,
            "sha256": record.sha256,
            "engine_name": engine_name(record.id, str(record.sha256)),
            "share": record.share,
            "since": record.since.timestamp(),
        }
        for record in market.canaries()
        if record.state is State.ACTIVE and record.since is not None
    ]


class MarketServer:
    """The application's one replica; it and the command line are the market's writers."""

    def __init__(
        self, folder: Path, needed: Requirements, access: Access, max_upload_bytes: int, on_loopback: bool
    ) -> None:
        if on_loopback:
            keep_grpc_on_loopback()
        checks = ChildChecks()
        checks.start()
        market = Market(folder, needed, lock_timeout_s=LOCK_S, checks=checks, lenient=True)
        self._market = market
        self._api = MarketAPI(market, access, max_upload_bytes, _probe_on_engine, _wait_for_replicas, checks.stop)

    async def __serve_build_asgi_app__(self) -> Starlette:
        self._api.keeper.start()
        return self._api.application()

    async def check_health(self) -> None:
        """Fails when the threads that do the market's work are stuck."""
        await check_threads(self._api.threads.reading, self._api.threads.changing)

    async def not_loaded(self, learnware_id: str, sha256: str, reason: str) -> None:
        """Looks after a version that an engine replica could not load; puts it into quarantine if its files are
        broken."""
        record = await asyncio.to_thread(self._market.check_files, learnware_id, sha256, reason)
        if record is None:
            logger.warning("the files of learnware %s are whole, but an engine says: %s", learnware_id, reason)
        else:
            logger.error("learnware %s is in quarantine: %s", learnware_id, record.reason)

    async def canaries(self) -> list[dict[str, Any]]:
        """Returns the canaries that are served: their learnware's `id`, and `version`, `sha256`, `engine_name`,
        `share`, and `since` (epoch, seconds) of each."""
        return await in_thread(self._api.threads.reading, partial(running_canaries, self._market))

    async def promote(self, learnware_id: str, sha256: str, reason: str) -> None:
        """Makes the canary of this hash its learnware's next version.

        Raises:
            UnknownLearnware: there is none (any more).
        """
        await self._api.change(partial(self._market.promote, learnware_id, sha256=sha256, reason=reason))

    async def roll_back(self, learnware_id: str, sha256: str, reason: str) -> None:
        """Takes the canary of this hash away.

        Raises:
            UnknownLearnware: there is none (any more).
        """
        await self._api.change(partial(self._market.roll_back, learnware_id, reason, sha256=sha256))


async def _probe_on_engine(staged: Staged) -> Trial:
    try:
        handle = await asyncio.to_thread(serve.get_deployment_handle, ENGINE, app_name=APPLICATION)
        entry = staged.entry
        specification = staged.learnware.specification
        answers = None if specification is None else specification.answers
        asked: Any = handle.probe.remote(
            entry.id,
            entry.version,
            entry.sha256,
            str(entry.folder),
            staged.card.domain,
            staged.card.examples,
            () if answers is None else answers.labels,
        )
        try:
            trial: Trial = await asyncio.wait_for(_result(asked), PROBE_TIMEOUT_S)
        except (TimeoutError, asyncio.CancelledError):
            asked.cancel()  # the replica unloads the learnware then
            raise
    except TimeoutError:
        raise NotReady(f"No engine replica tried the learnware within {PROBE_TIMEOUT_S:g} s. Try again.") from None
    return trial


async def _result(response: Any) -> Any:
    return await response


async def _wait_for_replicas(sequence: int) -> bool:
    async def wait(deployment: str) -> bool:
        handle = await asyncio.to_thread(serve.get_deployment_handle, deployment, app_name=APPLICATION)
        answers = await broadcast(handle, "market_reached", FOLLOW_TIMEOUT_S, sequence)
        return all(isinstance(answer, int) for answer in answers)

    try:
        return all(await asyncio.gather(wait(ENGINE), wait(ROUTER)))
    except Exception:
        logger.exception("not every replica was asked about change number %d of the market", sequence)
        return False


def market_application(config: Config, base: Path, folder: Path, *, on_loopback: bool) -> Application:
    """Builds the application to run with `route_prefix=ROUTE_PREFIX` beside the one that serves the market in `folder`.

    `base` is the base model's folder; `on_loopback` says that the stack is this machine's alone.
    """
    deployment = serve.deployment(
        serve.ingress()(MarketServer),
        name=MARKET,
        graceful_shutdown_wait_loop_s=0.1,
        **HEALTH_OPTIONS,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0},
    )
    built: Application = deployment.bind(
        folder,
        market_requirements(config, base),
        configured_access(config),
        int(config.market.max_upload_mib * (1 << 20)),
        on_loopback,
    )
    return built
