"""`GET /v1/decisions/evaluations` (clients say `/v1/evaluations`): how models compare, and what becomes of canaries.

    {"object": "evaluations", "since": …, "pairs": […], "canaries": […], "judge": …, "waiting": …, "failed": …}

A part of the application `decisions`, whose file holds the verdicts. A key sees comparisons of its own tenant's
requests, and of canaries what is decided; the admin key sees all.
"""

import asyncio
import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ray import serve
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.applications.access import Access
from serving.applications.upload_line import in_thread
from serving.config import Config
from serving.config_evaluation import CanarySettings, JudgeSettings
from serving.decisions.comparisons import Comparisons, Pair
from serving.decisions.queries import evaluations_query
from serving.decisions.redaction import Redactor
from serving.evaluation.canary_keeper import RUNNING, CanaryKeeper, Market, gather, rate_in_words
from serving.evaluation.evaluator import Evaluator, Run
from serving.evaluation.judge import Judge
from serving.evaluation.win_rates import win_rate, win_rate_of_scores
from serving.names import MARKET, MARKET_APPLICATION
from specs.canary import canary_id, learnware_of
from specs.errors import InvalidConfig

logger = logging.getLogger("ray.serve")

PATH = "/v1/decisions/evaluations"
"""Path at which the edge asks for them."""
LOOK_EVERY_S = 60.0
"""Seconds between two looks at canaries."""
CALL_S = 60.0
"""Seconds that the market may take for a canary: other changes may be under way."""
DIGITS = 4
"""Digits after the point of what is told."""


class Evaluation(NamedTuple):
    """The settings of comparisons: the judge and its key, the rule for canaries, and whether there is a market."""

    judge: JudgeSettings | None = None
    key: str | None = None
    canary: CanarySettings = CanarySettings()
    market: bool = False


def configured_evaluation(config: Config, *, market: bool) -> Evaluation:
    """Returns what a configuration and this process's environment say of comparing answers.

    Raises:
        InvalidConfig: the environment has not the judge's key.
    """
    judge = config.shadow.judge
    key = None
    if judge is not None and judge.key_env is not None:
        key = os.environ.get(judge.key_env)
        if not key:
            raise InvalidConfig(
                f"shadow.judge.key_env names the environment variable {judge.key_env}, which is not set: it must hold "
                "the judge's API key where the stack is started"
            )
    return Evaluation(judge, key, config.canary, market)


class Evaluations:
    """Comparisons, canaries and what is told of them. It belongs to one event loop."""

    def __init__(
        self,
        table: Comparisons,
        access: Access,
        settings: Evaluation,
        redactor: Redactor,
        write: Run,
        market: Market | None = None,
    ) -> None:
        """`write` runs what writes the file; `market` takes the place of the application `market`."""
        self._table, self._access = table, access
        self._judge = None if settings.judge is None else Judge(settings.judge, settings.key, redactor.redacted)
        self._evaluator = Evaluator(table, self._judge, write)
        self._keeper: CanaryKeeper | None = None
        if market is not None or settings.market:
            acts = settings.canary.decide
            self._keeper = CanaryKeeper(market or _MarketApplication(), table, settings.canary, write, acts=acts)
        self._write = write
        self._looks: asyncio.Task[None] | None = None

    def routes(self, reading: Any) -> list[Route]:
        """Returns the routes; `reading` is the pool of threads that read."""
        self._reading = reading
        return [Route(PATH, self._answer, methods=["GET"])]

    async def start(self) -> None:
        """Begins to judge comparisons and to look after canaries."""
        await self._write(self._table.give_up_waiting)
        self._evaluator.start()
        if self._keeper is not None:
            self._looks = asyncio.create_task(self._look_after(self._keeper))

    async def close(self) -> None:
        """Ends."""
        if self._looks is not None:
            self._looks.cancel()
        await self._evaluator.close()
        if self._judge is not None:
            await self._judge.close()

    async def take(self, parts: Iterable[Mapping[str, Any]]) -> int:
        """Takes comparisons; returns how many are none."""
        return sum([not await self._evaluator.take(part) for part in parts])

    async def reference(self, tenant: str, request_id: str, right: str) -> None:
        """Compares both answers to a request with the right one, which feedback gave. Never raises."""
        try:
            await self._evaluator.reference(tenant, request_id, right)
        except Exception:
            logger.exception("a right answer could not be compared")

    async def _look_after(self, keeper: CanaryKeeper) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await keeper.look()
            except Exception:
                logger.exception("canaries could not be looked after; they run on")

    async def _answer(self, request: Request) -> Response:
        tenant = self._access.check_read(request)
        learnware, after = evaluations_query(request.query_params.multi_items())
        whose = None if tenant.admin else tenant.name
        text = await in_thread(self._reading, lambda: json.dumps(self._described(whose, learnware, after)))
        headers = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
        return Response(text, headers=headers, media_type="application/json")

    def _described(self, tenant: str | None, learnware: str | None, after: float | None) -> dict[str, Any]:
        counts = self._table.counts(tenant, learnware, after)
        own = None if learnware is None else learnware_of(learnware)
        canaries = self._table.canaries(own)
        pairs = [
            _pair(one)
            for source in ("reference", "judge")
            for one in self._table.pairs(source, tenant, learnware, after)
        ]
        pairs += [
            found for one in canaries if one["state"] == RUNNING and (found := self._by_feedback(one, tenant, after))
        ]
        return {
            "object": "evaluations",
            "since": counts.since if after is None else after,
            "pairs": pairs,
            "canaries": [_canary(one, all_of_it=tenant is None) for one in canaries],
            "judge": None if self._judge is None else self._judge.model,
            "waiting": counts.waiting,
            "failed": counts.failed,
        }

    def _by_feedback(self, canary: Mapping[str, Any], tenant: str | None, after: float | None) -> dict[str, Any] | None:
        """Describes how a canary and its learnware compare by the scores that feedback gave their own answers."""
        since = max(canary["since"], after or 0.0)
        evidence = gather(self._table, canary["learnware"], canary["version"], since)
        answers = tuple(one for one in evidence.answers if tenant in (None, one.request[0]))
        evidence = evidence._replace(answers=answers)
        rate = win_rate_of_scores(evidence.scores(canary=False), evidence.scores(canary=True))
        if not rate.comparisons:
            return None
        return {
            "first": canary["learnware"],
            "first_version": None,
            "second": canary_id(canary["learnware"]),
            "second_version": canary["version"],
            "kind": "canary",
            "source": "feedback",
            **rate_in_words(rate),
            "tokens": [None, None],
            "seconds": [None, None],
        }


def _pair(one: Pair) -> dict[str, Any]:
    def rounded(values: tuple[float | None, float | None]) -> list[float | None]:
        return [None if value is None else round(value, DIGITS) for value in values]

    return {
        "first": one.first,
        "first_version": one.first_version,
        "second": one.second,
        "second_version": one.second_version,
        "kind": one.kind,
        "source": one.source,
        **rate_in_words(win_rate(one.wins, one.ties, one.losses)),
        "tokens": rounded(one.tokens),
        "seconds": rounded(one.seconds),
    }


def _canary(one: Mapping[str, Any], *, all_of_it: bool) -> dict[str, Any]:
    """Describes a canary. What is known of it comes from all tenants' requests, so the admin key alone is told."""
    shown = ("learnware", "version", "sha256", "share", "since", "until", "state", "verdict")
    told = ("answers", "why", "evidence")
    return {name: one[name] for name in shown} | {name: one[name] if all_of_it else None for name in told}


class _MarketApplication:
    """The application `market`, whose handle is made when it is first needed."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def canaries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._call("canaries")
        return found

    async def promote(self, learnware_id: str, sha256: str, reason: str) -> None:
        await self._call("promote", learnware_id, sha256, reason)

    async def roll_back(self, learnware_id: str, sha256: str, reason: str) -> None:
        await self._call("roll_back", learnware_id, sha256, reason)

    async def _call(self, method: str, *arguments: str) -> Any:
        if self._handle is None:
            # in a thread: it asks Serve's controller and waits for the answer
            self._handle = await asyncio.to_thread(serve.get_deployment_handle, MARKET, app_name=MARKET_APPLICATION)
        return await asyncio.wait_for(getattr(self._handle, method).remote(*arguments), CALL_S)
