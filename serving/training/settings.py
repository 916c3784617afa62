"""The settings of a training run, each with its default and its reason."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """Settings of one adapter's training. Times are in seconds of training proper, summed over resumptions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Rank 8 on sixteen layers of SmolLM2-135M is 1.33 MB in bf16, and vLLM pads lower ranks to 8 anyway. 256 is the
    # largest that its slots can be made for (`engine.max_rank`).
    rank: int = Field(8, ge=1, le=256)
    alpha: float = Field(16.0, gt=0)
    # Queries, values and both output projections: they steer attention and write back to the residual stream.
    target_modules: tuple[str, ...] = ("q_proj", "v_proj", "o_proj", "down_proj")
    # The first adapted layer as a share of the depth. Layers below it are frozen, and their output is computed once a
    # row.
    first_layer_share: float = Field(0.47, ge=0, lt=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    batch: int = Field(8, ge=1)
    # The learning rate falls along a cosine over this many passes; training ends there, or when `patience` runs out.
    epochs: float = Field(3.0, gt=0)
    warmup_share: float = Field(0.06, ge=0, lt=1)
    # The number of evaluations on the held-out slice in each pass, and how many in a row may bring no better one.
    evaluations_per_epoch: int = Field(2, ge=1)
    patience: int = Field(4, ge=1)
    held_out_share: float = Field(0.12, gt=0, lt=0.9)
    # The number of held-out rows that are evaluated: more take time from training and hardly move the mean.
    evaluation_rows: int = Field(64, ge=1)
    # The number of prompts off the task at which the adapter is kept to the base model (`serving.training.keep`); 0
    # keeps it nowhere. A run of some minutes takes 100 to 200 steps, hence each of these rows once or twice.
    keep_rows: int = Field(300, ge=0)
    # The number of keep rows beside the 8 rows of the task in a step. Measured with finance-tfns, 30 steps from an
    # adapter that had seen its task alone (about half of its answers off the task degenerate, 79.0 % right on it):
    # weight 1 leaves 1.4 % and 80.0 %, weight 3 0.7 % and 80.0 % with two thirds of the drift; 6 keep rows beside 4 of
    # the task 0.7 % and 79.5 %, the held-out loss rising.
    keep_batch: int = Field(3, ge=1)
    keep_weight: float = Field(3.0, gt=0)
    max_length: int = Field(1024, ge=16)
    max_seconds: float = Field(900.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    shuffle_answers: bool = False
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_seconds: float = Field(20.0, ge=0)
