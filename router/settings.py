"""What the choice of a learnware depends on besides the specifications; every default is written here once."""

from pydantic import BaseModel, ConfigDict, Field


class SelectionSettings(BaseModel):
    """Settings of `router.selection`. The defaults were chosen on train rows (`python -m benchmarks.selection
    --tune`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_confidence: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Below this confidence the base model answers. 0.5 is where the calibration puts the border.",
    )
    border: float = Field(
        1.75,
        description="Where confidence is 0.5, on the scale of everyday prompts: 0 is their median margin, 1 their "
        "95th percentile. Larger sends more requests to the base model. At 1.75, 97.3 % of general_chat's train rows "
        "go there, 98.4 % of other multiple choice, and none of the learnwares' own.",
    )
    softness: float = Field(
        0.25, gt=0, description="How far from the border, on the same scale, confidence reaches 0.73 or 0.27."
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
    score_scale: float = Field(
        10.0,
        gt=0,
        description="Difference of closeness at which a candidate's score falls to 1/e of the best one's, in half "
        "squared distances.",
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
