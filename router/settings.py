"""Settings of the choice of a learnware; every default is written here once."""

from pydantic import BaseModel, ConfigDict, Field

from specs.task import CLEAR_NOISE


class SelectionSettings(BaseModel):
    """When a learnware is chosen, and which ones may be. `python -m benchmarks.selection --tune` compares values of
    `min_match` on train rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_match: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A learnware answers only if the request asks for what it answers better than the base model with "
        "at least this probability. Larger sends more requests to the base model; at 0 whoever is expected to answer "
        "best does.",
    )
    min_task_match: float = Field(
        0.25,
        ge=0,
        le=1,
        description="As min_match, for a whole task given by its specification: who describes one asks for something "
        "that a learnware may answer more often than requests do.",
    )
    min_blurred_task_match: float = Field(
        0.5,
        ge=0,
        le=1,
        description="As min_task_match, which it never undercuts, for a task whose specification bears so much noise "
        f"that it may look like another one: a standard deviation above {CLEAR_NOISE:g} in each coordinate. Where "
        "learnwares keep the base model, 0.25 instead gives foreign tasks of 20 rows a learnware of another domain "
        "three times as often.",
    )
    gamma: float = Field(
        0.5,
        gt=0,
        description="γ of the kernel exp(-γ/2 · d²) by which nearness to a specification is told, in the fitted "
        "metric, in which points of one view are about 1 apart per direction; smaller blurs neighbouring tasks. "
        "Nearness decides only between learnwares of which equally much is expected, and, where there are more than 64 "
        "tasks, between those alike.",
    )
    shrinkage: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share by which the pooled covariance is moved towards a multiple of the identity before the "
        "metric is fitted to it; at 1 all directions vary alike. It matters where nearness does (gamma).",
    )
    rank: int = Field(
        64,
        ge=1,
        description="Directions of the metric that are kept at most; there are as many as learnwares have views "
        "together (the starters: 45). More make the search for the nearest slower.",
    )
    resident_margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="How much expected quality (1: the best learnware's) may be given up for a learnware whose adapter "
        "is in a faster tier. At 0 only learnwares of which equally much is expected stand in for each other.",
    )
    languages: tuple[str, ...] = Field(
        (),
        description="Only learnwares for one of these languages (ISO 639-1) are considered; empty: all. Where none is "
        "left, the router does not start.",
    )
    domains: tuple[str, ...] = Field(
        (),
        description="Only learnwares of these domains are considered; empty: all. Where none is left, the router does "
        "not start.",
    )

    def task_bound(self, noise: float) -> float:
        """Returns the least match with which a learnware answers a task whose specification bears noise of this
        standard deviation."""
        return self.min_task_match if noise <= CLEAR_NOISE else max(self.min_task_match, self.min_blurred_task_match)
