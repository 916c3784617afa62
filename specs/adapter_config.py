"""A LoRA adapter's configuration as PEFT 0.21 writes it (`adapter_config.json`): the options that the engine serves as
they are, and those that it does not serve, each with a way out.

vLLM 0.29 reads five of PEFT's options and passes over the others without a word, also over those that change what an
adapter computes. Here each option is known by name: harmless, read, or refused.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import regex

from specs.errors import InvalidLearnware
from specs.untrusted import read_json

CONFIG_FILE = "adapter_config.json"
"""File name of an adapter's configuration, as PEFT writes it."""
MAX_RANK = 512
"""The largest LoRA rank that vLLM 0.29 takes (`MaxLoRARanks`)."""
PEFT_RANK, PEFT_ALPHA = 8, 8
"""Rank and alpha that PEFT takes where a configuration names none."""

EMBEDDINGS = ("embed_tokens", "lm_head")
"""Names of the modules of which PEFT saves the base model's weights beside an adapter."""
MUTATING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of the values of `init_lora_weights` with which PEFT takes the adapter's first weights out of the base
model. What was trained is then an adapter of that changed base (`specs.adapter_conversion`)."""
PRESERVING = ("eva", "gaussian", "orthogonal", "mica", "true", "false", "none")
"""Values of `init_lora_weights` that leave the base model as it is."""

_REFUSED: Mapping[str, str] = {
    "use_dora": "the engine does not serve DoRA, whose magnitudes scale the base model's weights: merge it with PEFT's "
    "merge_and_unload and extract a LoRA from the difference to the base model, or train again with use_dora: false",
    "alora_invocation_tokens": "the engine does not serve aLoRA, which is active only after its invocation tokens: "
    "train again without it",
    "layer_replication": "the engine serves the base model with its own layers, not replicated ones: train again "
    "without it",
    "use_qalora": "the engine does not serve QALoRA, which pools the inputs: train again with use_qalora: false",
    "megatron_config": "adapters of Megatron's parallel layers are not served: train with Transformers' layers",
    "target_parameters": "the engine serves adapters of modules, not of single parameters: train again with "
    "target_modules",
    "lora_bias": "the engine adds no bias to lora_B: train again with lora_bias: false",
    "trainable_token_indices": "trained tokens are whole rows of the base model's embedding, which all learnwares "
    "share: train again without them, or with LoRA on embed_tokens",
    "use_bdlora": "the engine does not serve block-diagonal LoRA: train again without it",
    "arrow_config": "Arrow routes between several adapters inside one model: submit each adapter by itself",
    "kasa_config": "KaSA removes a part of the base model's weights: train again without it",
    "monteclora_config": "the engine does not serve MonteCLoRA's sampled weights: train again without it",
}
"""Options of PEFT that change what an adapter computes in a way that is not served, with what to do instead."""

_READ = """
peft_type base_model_name_or_path revision r lora_alpha use_rslora rank_pattern alpha_pattern target_modules
exclude_modules layers_to_transform init_lora_weights modules_to_save bias
"""
"""Options that are read here."""
_HARMLESS = """
auto_mapping task_type peft_version inference_mode lora_dropout fan_in_fan_out layers_pattern megatron_core loftq_config
eva_config corda_config lora_ga_config velora_config qalora_group_size runtime_config ensure_weight_tying modules_to_tie
target_modules_to_tie enable_lora merge_weights
"""
"""Options that say how an adapter was trained, which does not matter to what it computes afterwards; the last two
are of early versions of PEFT."""
_KNOWN = frozenset({*_READ.split(), *_HARMLESS.split(), *_REFUSED})

MATCH_SECONDS = 0.2
"""Longest that one pattern of a foreign configuration may take to be compared with one layer's path."""


@dataclass(frozen=True)
class AdapterConfig:
    """The arithmetic of each layer that a checked configuration describes.

    A layer adds `scaling · B A x` to its output, with `scaling` = alpha / rank, or alpha / sqrt(rank) for rsLoRA. Rank
    and alpha are the configuration's, or those of the first key of a pattern that matches the end of the layer's path,
    by PEFT's rule (`peft.utils.other.get_pattern_key`).
    """

    rank: int
    alpha: float
    rank_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    base_model: str
    """Name or path of the base model in the trainer's words; empty where none is named."""
    revision: str | None
    targets: frozenset[str] | None
    """Names of the adapted modules; None where PEFT was given a regular expression, which is not run here."""
    excluded: frozenset[str]
    covers_every_layer: bool
    """True when PEFT, given this configuration, adapts the named modules of every decoder layer."""
    ties_embeddings: bool
    """True when PEFT adapts the input embedding and the output layer alike if one of them is named."""
    initialisation: str
    """`init_lora_weights` in lower case."""
    notes: tuple[str, ...] = ()
    """Sentences on options that were passed over."""

    @property
    def mutates_base(self) -> bool:
        """True when the adapter belongs to a base model whose weights PEFT changed before the training."""
        return self.initialisation.startswith(MUTATING)

    def rank_of(self, layer: str) -> int:
        """Returns the rank of the layer at this path (`model.layers.0.mlp.up_proj`)."""
        return int(self._ranks.of(layer, self.rank))

    def scaling_of(self, layer: str) -> float:
        """Returns the factor of the layer's product B A."""
        rank, alpha = self.rank_of(layer), self._alphas.of(layer, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def adapts(self, layer: str) -> bool:
        """Whether PEFT would put adapter weights into this layer, as far as names say it."""
        targets = self.targets
        if targets is not None and not _ends_with_one_of(layer, targets):
            tied = self.ties_embeddings and not targets.isdisjoint(EMBEDDINGS)
            if not (tied and layer.rpartition(".")[2] in EMBEDDINGS):
                return False
        return not _ends_with_one_of(layer, self.excluded)

    @cached_property
    def _ranks(self) -> "_Patterns":
        return _Patterns("rank_pattern", self.rank_pattern)

    @cached_property
    def _alphas(self) -> "_Patterns":
        return _Patterns("alpha_pattern", self.alpha_pattern)


class _Patterns:
    """Values by the first key that matches the end of a layer's path."""

    def __init__(self, option: str, values: Mapping[str, float]) -> None:
        self._option = option
        self._values = list(values.values())
        self._plain: dict[str, int] = {}  # EVA names each layer: comparing all with all would take seconds
        self._patterns: list[tuple[int, Any]] = []
        for number, key in enumerate(values):
            if regex.fullmatch(r"[\w.]+", key):
                self._plain.setdefault(key, number)
            else:
                try:
                    self._patterns.append((number, regex.compile(rf"(.*\.)?({key})$")))
                except regex.error as error:
                    raise InvalidLearnware(
                        f"{CONFIG_FILE}: {option} has the key {key!r}, which is no regular expression ({error})"
                    ) from None

    def of(self, layer: str, default: float) -> float:
        """Returns the value for this layer, or `default` where no key matches."""
        parts = layer.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        first = min((self._plain[ending] for ending in endings if ending in self._plain), default=len(self._values))
        for number, pattern in self._patterns:
            if number > first:
                break
            try:
                if pattern.match(layer, timeout=MATCH_SECONDS):
                    return self._values[number]
            except TimeoutError:
                raise InvalidLearnware(
                    f"{CONFIG_FILE}: a key of {self._option} takes too long to be matched; name the modules instead"
                ) from None
        return self._values[first] if first < len(self._values) else default


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the configuration in an adapter's folder as it stands.

    Raises:
        InvalidLearnware: there is none, or it is none of a LoRA adapter.
    """
    try:
        config = read_json(folder / CONFIG_FILE)
    except FileNotFoundError:
        raise InvalidLearnware(f"{CONFIG_FILE} is missing") from None
    except ValueError as error:
        raise InvalidLearnware(f"{CONFIG_FILE} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else config
        raise InvalidLearnware(
            f"{CONFIG_FILE} must be an object with peft_type LORA, the one kind that the engine serves; it is "
            f"{_short(found)}"
        )
    return config


def checked_config(config: Mapping[str, Any], *, convertible: bool = False) -> AdapterConfig:
    """Checks a configuration and returns its meaning. With `convertible` True one is accepted that
    `specs.adapter_conversion.make_servable` can still change into one that is served.

    Raises:
        InvalidLearnware: an option is wrong, or changes the arithmetic in a way that is not served; the message names
            it and says what to do.
    """
    for option, way_out in _REFUSED.items():
        if config.get(option):
            raise InvalidLearnware(f"{CONFIG_FILE}: {option} is {_short(config[option])}; {way_out}")
    rank = _rank("r", config.get("r", PEFT_RANK))
    ranks = {key: _rank(f"rank_pattern of {key!r}", value) for key, value in _pattern(config, "rank_pattern").items()}
    alphas = {
        key: _alpha(f"alpha_pattern of {key!r}", value) for key, value in _pattern(config, "alpha_pattern").items()
    }
    targets = config.get("target_modules")
    if not (isinstance(targets, str) and targets) and not (_are_names(targets) and targets):
        raise InvalidLearnware(f"{CONFIG_FILE}: target_modules must list the modules that the adapter changes")
    excluded = config.get("exclude_modules") or ()
    if not isinstance(excluded, str) and not _are_names(excluded):
        raise InvalidLearnware(f"{CONFIG_FILE}: exclude_modules must be null, names of modules or a regular expression")
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if name is not None and not isinstance(name, str):
        raise InvalidLearnware(f"{CONFIG_FILE}: base_model_name_or_path must name the base model")
    if not _are_names(config.get("modules_to_save") or ()):
        raise InvalidLearnware(f"{CONFIG_FILE}: modules_to_save must be null or a list of names")
    checked = AdapterConfig(
        rank=rank,
        alpha=_alpha("lora_alpha", config.get("lora_alpha", PEFT_ALPHA)),
        rank_stabilised=bool(config.get("use_rslora")),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        base_model=name or "",
        revision=revision if isinstance(revision, str) else None,
        targets=None if isinstance(targets, str) else frozenset(targets),
        excluded=frozenset() if isinstance(excluded, str) else frozenset(excluded),
        covers_every_layer=(
            isinstance(targets, list)
            and not excluded
            and config.get("layers_to_transform") in (None, [])
            and not any(part.isdigit() for target in targets for part in target.split("."))
        ),
        ties_embeddings=bool(config.get("ensure_weight_tying")),
        initialisation=str(config.get("init_lora_weights", True)).lower(),
        notes=_unknown_options(config),
    )
    if checked.mutates_base and not convertible:
        raise InvalidLearnware(unconverted(checked.initialisation))
    if not checked.mutates_base and checked.initialisation not in PRESERVING:
        raise InvalidLearnware(
            f"{CONFIG_FILE}: init_lora_weights is {checked.initialisation!r}, of which is not known here whether it "
            "changes the base model; if it does not, set it to true"
        )
    return checked


def unconverted(initialisation: str) -> str:
    """Returns the sentence that refuses an adapter whose initialisation changed the base model."""
    return (
        f"{CONFIG_FILE}: init_lora_weights is {initialisation!r}, which takes the adapter's first weights out of the "
        "base model: over the unchanged base it would answer garbage. Convert it to a plain LoRA: save the untrained "
        "adapter with init_lora_weights set to True, and the trained one with PEFT's save_pretrained(..., "
        "path_initial_model_for_weight_conversion=<folder of the untrained one>); or put that folder into this one as "
        "initial_adapter"
    )


def _unknown_options(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a note on options that this version does not know. What changes an adapter's arithmetic brings tensors of
    other names nearly always, and those are refused; an unknown option alone says little."""
    unknown = sorted(key for key, value in config.items() if key not in _KNOWN and value)
    if not unknown:
        return ()
    return (f"{CONFIG_FILE} has options that are not known here and were passed over: {', '.join(unknown)}",)


def _pattern(config: Mapping[str, Any], option: str) -> Mapping[str, Any]:
    values = config.get(option) or {}
    if not isinstance(values, dict):
        raise InvalidLearnware(f"{CONFIG_FILE}: {option} must be an object with names of modules as keys")
    return values


def _rank(option: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise InvalidLearnware(f"{CONFIG_FILE}: {option} is {value!r}; it must be a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidLearnware(f"{CONFIG_FILE}: {option} is {value!r}; it must be a positive number")
    return value


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _ends_with_one_of(layer: str, names: frozenset[str]) -> bool:
    parts = layer.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "…"
