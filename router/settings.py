"""Settings of the choice of a learnware; every default is written here once."""

from pydantic import BaseModel, ConfigDict, Field

from specs.task import CLEAR_NOISE


class SelectionSettings(BaseModel):
    """Settings of `router.selection`. The defaults were chosen on train rows (`python -m benchmarks.selection
    --tune`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_match: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A learnware answers only if the request asks for what it answers better than the base model with "
        "at least this probability. Larger sends more requests to the base model.",
    )
    min_task_match: float = Field(
        0.25,
        ge=0,
        le=1,
        description="The same for a whole task: who describes one asks for something that a learnware may answer more "
        "often than requests do.",
    )
    min_blurred_task_match: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The same for a task whose specification bears so much noise that it may look like another one "
        "(specs.task.CLEAR_NOISE). Where learnwares keep the base model, 0.25 instead gives foreign tasks of 20 rows a "
        "learnware of another domain three times as often.",
    )
    gamma: float = Field(
        0.5,
        gt=0,
        description="Bandwidth of the kernel in the fitted metric, in which points of one view are about 1 apart per "
        "direction. 0.2 to 1 differ by less than half a point; 0.05 blurs neighbouring tasks.",
    )
    shrinkage: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Of the pooled covariance towards a multiple of the identity. 0.3 to 0.7 differ by less than a "
        "point; at 0.1 more foreign questions pass for a learnware's own.",
    )
    rank: int = Field(
        64,
        ge=1,
        description="Directions kept. Twelve learnwares with three views have 36; beyond 64 the product over all "
        "points grows without gain.",
    )
    resident_margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="How much expected quality (1: the best learnware's) may be given up for a learnware whose adapter "
        "is in a faster tier. At 0 only exact copies stand in for each other.",
    )
    languages: tuple[str, ...] = Field(
        (), description="Only learnwares for one of these languages (ISO 639-1) are considered; empty: all."
    )
    domains: tuple[str, ...] = Field((), description="Only learnwares of these domains are considered; empty: all.")

    def task_bound(self, noise: float) -> float:
        """Returns the least match with which a learnware answers a task whose specification bears noise of this
        standard deviation."""
        return self.min_task_match if noise <= CLEAR_NOISE else max(self.min_task_match, self.min_blurred_task_match)
