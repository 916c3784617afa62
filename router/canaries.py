"""The canaries' share of requests: now and then a learnware's new version answers in its place (`specs.canary`).

Canaries are no candidates. Only after the rule, or exploration, has chosen a learnware is its canary drawn, by the
request's id alone: so a request that is sent again under the same id goes the same way, and the two versions get
requests of the same kinds. Which requests explore is drawn apart from this.
"""

from collections.abc import Mapping
from typing import NamedTuple

from router.choice import CANARY
from router.drawing import drawn
from router.selection import Choice


class Canary(NamedTuple):
    """A canary that is served: its id, the engine's name of its adapter, and the share of its learnware's requests that
    it gets."""

    id: str
    engine_name: str
    share: float


def with_canary(choice: Choice, request_id: str, canaries: Mapping[str, Canary]) -> Choice:
    """Returns the choice for a request that did not name its model: of the chosen learnware's canary where the request
    is among the canary's share. `canaries` holds them by learnware."""
    canary = canaries.get(choice.learnware_id or "")
    if canary is None or not drawn("canary", request_id, canary.share):
        return choice
    return choice._replace(learnware_id=canary.id, reason=choice.reason + CANARY)
