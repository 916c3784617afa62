"""The configuration: one YAML file, validated, each default written here once.

An unknown key is refused with the nearest valid one. The models are frozen: a configuration is read at start and never
changes.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from serving.access.keyring import named_keys
from serving.config_access import KeySettings, LimitSettings
from serving.config_evaluation import CanarySettings, ShadowSettings
from serving.config_insight import ConsoleSettings, DecisionSettings, FeedbackSettings, TraceSettings
from serving.config_sections import (
    BaseModelSettings,
    EngineSettings,
    HTTPSettings,
    LearnwareSettings,
    MarketSettings,
    RouterSettings,
    Section,
)
from specs.errors import InvalidConfig


class Config(Section):
    """The whole configuration. `Config()` is the default: the embedded base and the starter learnwares on this
    machine's CPU."""

    http: HTTPSettings = Field(default_factory=HTTPSettings)
    base_model: BaseModelSettings = Field(default_factory=BaseModelSettings)
    learnwares: LearnwareSettings = Field(default_factory=LearnwareSettings)
    market: MarketSettings = Field(default_factory=MarketSettings)
    router: RouterSettings = Field(default_factory=RouterSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    keys: KeySettings = Field(default_factory=KeySettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    console: ConsoleSettings = Field(default_factory=ConsoleSettings)
    decisions: DecisionSettings = Field(default_factory=DecisionSettings)
    traces: TraceSettings = Field(default_factory=TraceSettings)
    feedback: FeedbackSettings = Field(default_factory=FeedbackSettings)
    shadow: ShadowSettings = Field(default_factory=ShadowSettings)
    canary: CanarySettings = Field(default_factory=CanarySettings)
    api_keys: tuple[str, ...] = Field(
        (),
        description="API keys in plain text, as KEY or NAME:KEY, each a tenant without limits of its own; "
        "`keys.file` keeps digests, with limits. As soon as there is any key, every request but one to /health and "
        "/ping needs one.",
    )
    drain_seconds: float = Field(
        30.0,
        ge=0,
        description="How long running requests may go on after SIGTERM or Ctrl-C, seconds; what still runs then is cut "
        "off. A second signal ends the wait.",
    )

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        try:
            named_keys(keys, "api_keys")
        except InvalidConfig as error:
            raise ValueError(str(error)) from None
        return keys

    @model_validator(mode="after")
    def _auto_names_are_free(self) -> Self:
        if self.base_model.served_id in self.router.auto_names:
            raise ValueError(f"router.auto_names must not hold the base model's id {self.base_model.served_id!r}")
        return self

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        if self.feedback.learn and not (self.decisions.enabled and self.decisions.vectors):
            raise ValueError(
                "feedback.learn needs decisions.enabled and decisions.vectors: it learns from the records of requests, "
                "by their vectors"
            )
        if self.feedback.learn and self.market.path is None:
            raise ValueError("feedback.learn needs market.path: the folder in which what is learnt is kept")
        return self

    @model_validator(mode="after")
    def _has_what_a_shadow_needs(self) -> Self:
        if self.shadow.share and not self.decisions.enabled:
            raise ValueError(
                "shadow.share needs decisions.enabled: comparisons are kept beside the records of requests"
            )
        if self.shadow.share and self.engine.scheduling != "paged":
            raise ValueError(
                "shadow.share needs engine.scheduling: paged, by which second answers give way to requests"
            )
        return self


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Reads a YAML file (None: the defaults) and lays `overrides`, a nested mapping, over it.

    Raises:
        InvalidConfig: the file is missing, is no YAML mapping, or holds an unknown key or a wrong value; the message
        names the key's
            path, what was wrong and what would be right.
    """
    data: dict[str, Any] = {}
    if path is not None:
        data = _read_yaml(path)
    for section, values in (overrides or {}).items():
        data[section] = {**data.get(section, {}), **values} if isinstance(values, Mapping) else values
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        where = f"{path}: " if path else ""
        raise InvalidConfig(where + "; ".join(_explain(problem) for problem in error.errors())) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig(f"cannot read the configuration {path}: {os.strerror(error.errno or 0)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidConfig(f"{path} is not YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InvalidConfig(
            f"{path} must hold a mapping with the keys {', '.join(Config.model_fields)}; "
            f"it holds a {type(data).__name__}"
        )
    return data


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic problem as a sentence with the key's path; for an unknown key, the nearest valid name."""
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] != "extra_forbidden":
        message = str(problem["msg"]).removeprefix("Value error, ")
        return f"{dotted}: {message}" if dotted else message
    names = list(_model_at(path[:-1]).model_fields)
    near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else f"valid here: {', '.join(names)}"
    return f"unknown key {dotted}; {hint}"


def _model_at(path: list[str]) -> type[BaseModel]:
    """The model class that the keys at `path` belong to."""
    model: type[BaseModel] = Config
    for part in path:
        field = model.model_fields.get(part)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))  # of an optional one, too
        section = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
        if section is None:
            return model
        model = section
    return model
