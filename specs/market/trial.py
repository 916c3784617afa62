"""The result of trying a learnware on an engine before it is served. Nothing of vLLM is imported: the market's process
reads it, too.
"""

from collections.abc import Mapping
from typing import NamedTuple

from specs.off_task import MAX_TOKENS, Kind, OffTaskScore

PROTOCOL = (
    f"greedy answers of at most {MAX_TOKENS} tokens on the engine, one user turn; drift: log p(base's answer) under "
    "the adapter, less under the base, a token, those beyond the first that differs by one of them drawn; degenerate: "
    "where the base's is not; engine v1"
)
"""Description of how a trial measures off-task requests, for `Capability.elsewhere_protocol`."""


class Trial(NamedTuple):
    """The result of a trial: the reason why the learnware must not be served, or None; its scores on off-task
    requests, empty where they could not be measured; and sentences that refuse nothing, but are worth knowing: they are
    kept with it and shown."""

    refusal: str | None
    elsewhere: Mapping[Kind, OffTaskScore] = {}
    notes: tuple[str, ...] = ()
