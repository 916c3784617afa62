"""Makes the joint choice: turns a choice of a learnware into one of a learnware and an engine replica."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from router.choice import MATCHED, RESIDENT, SESSION
from router.explanation import DIGITS
from router.placement import DISK, Option, Placed, Placement, PlacementSettings, ReplicaState, Reports
from router.selection import Candidate, Choice

PREFETCH_AGAIN_S = 1.0
"""Seconds within which a replica is not asked twice to read the same adapter: by then its report says that it has
it."""
REMEMBERED_PREFETCHES = 1024
"""Prefetches that are remembered before all are forgotten."""


class Replicas(Protocol):
    """The engine replicas, as `router.ray_internals.EngineReplicas` knows them."""

    def reports(self) -> dict[str, Mapping[str, Any]]:
        """Returns each running replica's last report, by its name."""

    def call(self, name: str, method: str, *arguments: Any) -> None:
        """Calls a method of one replica and does not wait for it."""


class JointChoice:
    """Places choices. Not thread-safe: a router calls it in its event loop."""

    def __init__(
        self,
        replicas: Replicas,
        margin: float,
        settings: PlacementSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replicas = replicas
        self._settings = settings
        self._placement = Placement(margin, settings)
        self._reports = Reports()
        self._clock = clock
        self._prefetched: dict[tuple[str, str], float] = {}

    def decide(self, choice: Choice, adapters: Mapping[str, str]) -> tuple[Choice, Placed | None]:
        """Returns the choice, whose learnware another one may have replaced, and its placement: None when no replica is
        known yet, or any will do (`affinity: false`). `adapters` holds the engines' names by learnware."""
        now = self._clock()
        states = self._states(now)
        if not states or not self._settings.affinity:
            return choice, None
        placed = self._placement.place(options_of(choice, adapters), states)
        self._reports.note_sent(placed.replica, now)
        if placed.tier == DISK and states[placed.replica].adapters:
            self._prefetch(placed, now)
        return _answered_by(choice, placed.option.learnware), placed

    def explain(self, choice: Choice, adapters: Mapping[str, str]) -> tuple[Choice, dict[str, Any]]:
        """Returns the choice as `decide` would, and the figures behind it, but counts nothing and prefetches nothing:
        the expected quality of each candidate, the tiers of its adapter, and the replica that would get the request,
        with the reason."""
        states = self._states(self._clock())
        candidates = [self._explain_one(each, adapters, states) for each in choice.candidates]
        explained: dict[str, Any] = {"candidates": candidates, "replica": None}
        if not states or not self._settings.affinity:
            return choice, explained
        options = options_of(choice, adapters)
        good = {option.learnware for option in self._placement.within_margin(options)}
        for candidate in candidates:
            candidate["may_answer"] = candidate["learnware"] in good
        placed = self._placement.place(options, states)
        explained["replica"] = {
            "id": placed.replica,
            "why": placed.why,
            "tier": placed.tier,
            "requests": {name: state.load for name, state in states.items()},
            "bound": self._placement.bound(state.load for state in states.values()),
        }
        return _answered_by(choice, placed.option.learnware), explained

    def _explain_one(
        self, candidate: Candidate, adapters: Mapping[str, str], states: Mapping[str, ReplicaState]
    ) -> dict[str, Any]:
        adapter = adapters.get(candidate.learnware_id)
        explained: dict[str, Any] = {
            "learnware": candidate.learnware_id,
            "score": round(candidate.score, DIGITS),
            "expected": round(candidate.expected, DIGITS),
        }
        if adapter is not None and states:
            explained["home"] = self._placement.order(adapter, states)[0]
            explained["tiers"] = {name: state.adapters.get(adapter, DISK) for name, state in states.items()}
        return explained

    def _states(self, now: float) -> dict[str, ReplicaState]:
        return self._reports.states(self._replicas.reports(), now)

    def _prefetch(self, placed: Placed, now: float) -> None:
        """Has the replica read the adapter while the request is on its way."""
        assert placed.option.adapter is not None  # the base model is on every device
        key = (placed.replica, placed.option.adapter)
        if now - self._prefetched.get(key, float("-inf")) < PREFETCH_AGAIN_S:
            return
        if len(self._prefetched) >= REMEMBERED_PREFETCHES:
            self._prefetched.clear()
        self._prefetched[key] = now
        self._replicas.call(placed.replica, "prefetch", placed.option.adapter)


def options_of(choice: Choice, adapters: Mapping[str, str]) -> Sequence[Option]:
    """Returns the learnwares that may answer, the chosen one first. Another one may replace a learnware that the
    request's text matched; never one that was named, or that keeps a task."""
    chosen = choice.learnware_id
    adapter = None if chosen is None else adapters.get(chosen)
    qualities = {one.learnware_id: one.quality for one in choice.candidates}
    best = Option(chosen, adapter, qualities.get(chosen or "", 1.0))
    if adapter is None or choice.reason not in (MATCHED, SESSION):
        return [best]
    others = (Option(name, adapters.get(name), quality) for name, quality in qualities.items() if name != chosen)
    return [best, *(one for one in others if one.adapter is not None)]


def _answered_by(choice: Choice, learnware: str | None) -> Choice:
    if learnware == choice.learnware_id:
        return choice
    score = next(each.score for each in choice.candidates if each.learnware_id == learnware)
    return choice._replace(learnware_id=learnware, score=score, reason=choice.reason + RESIDENT)
