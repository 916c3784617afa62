"""The options that a router replica is started with."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry
from pydantic import BaseModel, ConfigDict

from router.conversation import ConversationSettings
from router.decision_record import DecisionRecorder
from router.placement import PlacementSettings
from router.settings import SelectionSettings
from router.watch import Watch
from router.wrappers import RequestSettings
from specs.market.checks import Requirements

Outcome = Literal["refuse", "base"]
"""The ways to answer a request whose decision cannot start in time."""


class RouterOptions(BaseModel):
    """The options that a router replica is started with; every field is read once, at start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learnwares: Path
    """A folder of learnwares that stay as they are; it is read where there is no market."""
    market: Path | None
    """The market's folder, or None."""
    requirements: Requirements | None = None
    """The requirements on learnwares of a folder without a market; None leaves no valid one out."""
    base_model: Path | None
    """The base model's folder, whose tokenizer decodes prompts of token ids, or None."""
    auto_names: tuple[str, ...]
    """Values of `model` that ask for a choice."""
    deadline_ms: float
    """Milliseconds that a decision may take, from its start."""
    max_wait_ms: float
    """Milliseconds that a request may wait until its decision starts."""
    on_overload: Outcome
    selection: SelectionSettings
    conversation: ConversationSettings
    request: RequestSettings = RequestSettings()
    placement: PlacementSettings = PlacementSettings()
    record: Callable[[CollectorRegistry], DecisionRecorder] | None = None
    """Makes what takes the records of choices, with its metrics in the registry; None records nothing."""
    watch: Callable[[], Watch] | None = None
    """Makes what watches each request on the replica; None: nothing does."""
    learns: bool = False
    """Whether evidence from feedback has effect."""
    explore: float = 0.0
    """Most of the requests, as a share, that explore (`router.exploring`)."""
    on_loopback: bool
    """Whether the replica's gRPC server is kept on the loopback interface
    (`router.ray_internals.keep_grpc_on_loopback`)."""
