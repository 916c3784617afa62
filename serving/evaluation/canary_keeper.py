"""Applies the rule (`serving.evaluation.canary_rule`) to the market's canaries, and keeps what came of each."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from serving.evaluation.canary_rule import Decision, RuleSettings, decide
from serving.evaluation.evaluator import FAILED, Run
from serving.evaluation.evidence import NEXT, NOT_LOADED, Answer, Compared, Evidence, answers_in
from serving.evaluation.win_rates import WinRate, win_rate, win_rate_of_scores
from specs.canary import canary_id, learnware_of

logger = logging.getLogger("ray.serve")

RUNNING, PROMOTED, ROLLED_BACK, ENDED = "running", "promoted", "rolled back", "ended"
"""States of a canary. One that is over without the rule's doing has ended: an operator promoted or removed it."""
LOST = (NOT_LOADED, f"%{NEXT}")
"""Patterns of the reasons of requests whose chosen learnware could not be loaded."""
DIGITS = 4
"""Digits after the point of what is told."""


class Market(Protocol):
    """The market, as the rule needs it (the methods of the same names of the application `market`)."""

    async def canaries(self) -> list[dict[str, Any]]:
        """Returns the running canaries, each with `id`, `sha256`, `engine_name`, `share` and `since`."""

    async def promote(self, learnware_id: str, sha256: str, reason: str) -> None:
        """Makes the canary of this hash its learnware's next version."""

    async def roll_back(self, learnware_id: str, sha256: str, reason: str) -> None:
        """Takes the canary of this hash away."""


class Log(Protocol):
    """The log's tables, as the rule needs them (`serving.decisions.comparisons.Comparisons`)."""

    def answers(self, models: Sequence[str], lost: Sequence[str], since: float) -> list[dict[str, Any]]:
        """Returns what records since a time say of these models' answers, and of those with a reason like `lost`."""

    def of_canary(self, version: str) -> list[dict[str, Any]]:
        """Returns the comparisons of a canary's version."""

    def note_canary(self, learnware: str, sha256: str, since: float, state: str, body: Mapping[str, Any]) -> None:
        """Keeps what is known of a canary."""

    def canaries(self, learnware: str | None = None, state: str | None = None) -> list[dict[str, Any]]:
        """Returns what is known of canaries."""


class CanaryKeeper:
    """Looks after canaries; for the use of one task."""

    def __init__(
        self,
        market: Market,
        log: Log,
        settings: RuleSettings,
        run: Run,
        *,
        acts: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`run` runs what reads or writes the log; without `acts` the rule only says what it would do."""
        self._market, self._log, self._settings, self._run = market, log, settings, run
        self._acts, self._clock = acts, clock

    async def look(self) -> None:
        """Looks at every canary once, and promotes or rolls back those that the rule is certain of. What fails with one
        canary does not concern another, and is tried again at the next look."""
        running = await self._market.canaries()
        await self._run(
            lambda: self._end_others({(learnware_of(str(one["id"])), str(one["sha256"])) for one in running})
        )
        for one in running:
            try:
                await self._look_at(one)
            except Exception:
                logger.exception("the canary of %s could not be looked after", one["id"])

    async def _look_at(self, one: Mapping[str, Any]) -> None:
        learnware, sha256, since = learnware_of(str(one["id"])), str(one["sha256"]), since_of(one)

        def known() -> tuple[Evidence, Decision]:
            evidence = gather(self._log, learnware, str(one["engine_name"]), since)
            return evidence, decide(evidence, self._settings)

        evidence, decision = await self._run(known)
        state, why = RUNNING, decision.why
        act: Callable[[str, str, str], Awaitable[None]] | None = None
        if decision.action != "wait":
            if self._acts:
                promotes = decision.action == "promote"
                act, state = (self._market.promote, PROMOTED) if promotes else (self._market.roll_back, ROLLED_BACK)
            else:
                why += f" By the rule it would be {'promoted' if decision.action == 'promote' else 'rolled back'}; "
                why += "canary.decide is off."
        if act is not None:
            await act(learnware, sha256, why)
            logger.info("the canary of %s is %s: %s", learnware, state, why)
        body = {
            "version": one["engine_name"],
            "share": one["share"],
            "until": self._clock() if act is not None else None,
            "answers": sum(answer.canary for answer in evidence.answers),
            "verdict": decision.verdict,
            "why": why,
            "evidence": described(evidence, decision),
        }
        await self._run(lambda: self._log.note_canary(learnware, sha256, since, state, body))

    def _end_others(self, running: set[tuple[str, str]]) -> None:
        """Notes that canaries which the market has no more are over."""
        for one in self._log.canaries(state=RUNNING):
            if (one["learnware"], one["sha256"]) in running:
                continue
            body = {name: value for name, value in one.items() if name not in ("learnware", "sha256", "since", "state")}
            body["until"] = self._clock()
            body["why"] = "It was promoted, rolled back or removed by hand; the learnware's history says which."
            self._log.note_canary(one["learnware"], one["sha256"], one["since"], ENDED, body)


def since_of(canary: Mapping[str, Any]) -> float:
    """Returns the epoch time in seconds since when it runs; the market may also tell it by ISO 8601."""
    since = canary["since"]
    return datetime.fromisoformat(since).timestamp() if isinstance(since, str) else float(since)


def gather(log: Log, learnware: str, version: str, since: float) -> Evidence:
    """Collects what the log knows of a canary with this engine name, of requests since a time."""
    canary = canary_id(learnware)
    answers = answers_in(log.answers((learnware, canary), LOST, since), learnware, canary, version)
    compared = [
        Compared((one["tenant"], one["id"]), one["reference"], one["judge"], one["state"] == FAILED)
        for one in log.of_canary(version)
    ]
    return Evidence(tuple(answers), tuple(compared))


def described(evidence: Evidence, decision: Decision) -> dict[str, Any]:
    """Describes what is known of a canary, for JSON: how many scores of feedback with their mean, of the canary and of
    its learnware; how many answers with the share of failed ones; the verdicts on pairs by source; and the difference
    of quality, canary less learnware, with the interval that holds at all looks."""

    def mean(values: Sequence[float]) -> list[float | None]:
        return [len(values), round(sum(values) / len(values), DIGITS) if values else None]

    def failed(answers: Sequence[Answer], *, canary: bool) -> list[float | None]:
        return mean([float(one.failed) for one in answers if one.canary == canary])

    pairs = {
        "feedback": win_rate_of_scores(evidence.scores(canary=False), evidence.scores(canary=True)),
        "reference": _of([one.reference for one in evidence.compared]),
        "judge": _of([one.judge for one in evidence.compared]),
    }
    quality = decision.quality
    return {
        "feedback": {
            "canary": mean(evidence.scores(canary=True)),
            "current": mean(evidence.scores(canary=False)),
        },
        "failures": {
            "canary": failed(evidence.answers, canary=True),
            "current": failed(evidence.answers, canary=False),
        },
        "pairs": {source: rate_in_words(rate) for source, rate in pairs.items() if rate.comparisons},
        "unjudged": evidence.unjudged,
        "quality": {
            "compared": quality.values,
            "difference": round(quality.mean, DIGITS) if quality.values else None,
            "interval": [round(quality.low, DIGITS), round(quality.high, DIGITS)],
        },
    }


def rate_in_words(rate: WinRate) -> dict[str, Any]:
    """Describes a win rate for JSON. Wins of scores are shares of pairs, and no whole numbers."""

    def counted(value: float) -> float:
        return int(value) if value == int(value) else round(value, 2)

    return {
        "comparisons": rate.comparisons,
        "wins": counted(rate.wins),
        "ties": counted(rate.ties),
        "losses": counted(rate.losses),
        "win_rate": round(rate.rate, DIGITS) if rate.comparisons else None,
        "interval": [round(rate.low, DIGITS), round(rate.high, DIGITS)],
    }


def _of(verdicts: Sequence[float | None]) -> WinRate:
    known = [one for one in verdicts if one is not None]
    wins, losses = sum(one > 0 for one in known), sum(one < 0 for one in known)
    return win_rate(wins, len(known) - wins - losses, losses)
