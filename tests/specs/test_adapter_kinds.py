"""Adapters as trainers write them: each kind is served as PEFT computes it, or refused with a sentence that leads on.

PEFT makes every adapter here, on a tiny Llama; what it adds to each layer's weights is compared with what the checked
folder says.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from specs.adapter import adapter_hash
from specs.adapter_config import checked_config, read_config
from specs.adapter_conversion import make_servable
from specs.adapter_tensors import read_header
from specs.base_layers import read_layers
from specs.capability import Capability, save_capability
from specs.card import CARD_FILE, BaseModelReference, save_card
from specs.errors import InvalidLearnware
from specs.market.checks import Requirements, check_learnware
from tests.serving.peft_adapters import (
    ATTENTION,
    INITIAL,
    MLP,
    Kind,
    compiled_names,
    edit_config,
    edit_tensors,
    load_base,
    make_adapter,
)
from tests.specs.learnware_folder import card, write_learnware

pytestmark = pytest.mark.slow

MAX_RANK = 32
SERVED_ID = "Tiny-Llama-1M"
SIZES = {
    "vocab_size": 48,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
BASES: dict[str, dict[str, Any]] = {
    "served": {},
    "tied": {"tie_word_embeddings": True},
    "deeper": {"num_hidden_layers": 3},
    "shallower": {"num_hidden_layers": 1},
    "wider": {"intermediate_size": 128},
    "more tokens": {"vocab_size": 56},
}


class Case(NamedTuple):
    """A kind, the base that it is made on, and the words of the refusal, or of a note where it is served."""

    kind: Kind
    refused: str = ""
    noted: str = ""
    base: str = "served"
    named: str | None = f"owner/{SERVED_ID}"


def without(*options: str) -> Callable[[Path], object]:
    """Takes options out of the saved configuration, as earlier versions of PEFT have not had them."""

    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in options}))

    return edit


def added(name: str, *shape: int) -> Callable[[Path], object]:
    return edit_tensors(lambda tensors: tensors | {f"base_model.model.{name}": torch.full(shape, 0.5)})


def scaled(ending: str, factor: float) -> Callable[[Path], object]:
    return edit_tensors(
        lambda tensors: {name: value * factor if name.endswith(ending) else value for name, value in tensors.items()}
    )


def minimal(folder: Path) -> None:
    """The configuration of a trainer that is not PEFT."""
    kept = {"r": 8, "lora_alpha": 16, "target_modules": ATTENTION + MLP, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(kept))


def beside(folder: Path) -> None:
    """A checkpoint and a second copy of the initial adapter."""
    shutil.copytree(folder / INITIAL, folder / "checkpoint-10")
    shutil.copytree(folder / INITIAL, folder / "other")


NEW = ("alora_invocation_tokens", "arrow_config", "kasa_config", "lora_ga_config", "velora_config", "use_bdlora")
NEW += ("monteclora_config", "ensure_weight_tying", "target_parameters", "trainable_token_indices", "use_qalora")
NEW += ("exclude_modules", "lora_bias", "eva_config", "corda_config", "qalora_group_size", "peft_version", "use_dora")

CASES: dict[str, Case] = {
    # served
    "PEFT's defaults": Case(Kind()),
    "all linear layers": Case(Kind({"target_modules": "all-linear"})),
    "attention alone": Case(Kind({"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1})),
    "rank-stabilised": Case(Kind({"use_rslora": True, "r": 16, "lora_alpha": 7})),
    "patterns of ranks": Case(Kind({"rank_pattern": {"q_proj": 16, r"layers\.1\.mlp\.(up|down)_proj": 2}})),
    "patterns of alphas": Case(Kind({"alpha_pattern": {"model.layers.0.self_attn.v_proj": 3, r".*gate_proj": 0.5}})),
    "rank-stabilised patterns": Case(Kind({"use_rslora": True, "rank_pattern": {"^model.layers.0.*k_proj": 4}})),
    "a large rank that no layer has": Case(Kind({"r": 64, "rank_pattern": {".*proj": 4}})),
    "modules by a regular expression": Case(Kind({"target_modules": r".*\.layers\.\d+\.mlp\.\w+_proj"})),
    "excluded modules": Case(Kind({"exclude_modules": ["v_proj", "model.layers.0.self_attn.q_proj"]})),
    "modules excluded by a regular expression": Case(Kind({"exclude_modules": r".*\.1\..*"})),
    "target modules that match nothing": Case(
        Kind({"target_modules": ["q_proj", "c_attn", "w1"]}), noted="no tensor belongs to c_attn, w1"
    ),
    "no modules to save": Case(Kind({"modules_to_save": []})),
    "trained biases where there are none": Case(Kind({"bias": "lora_only"})),
    "one layer": Case(Kind({"layers_to_transform": [1], "layers_pattern": "layers"})),
    "the first layer alone": Case(Kind({"layers_to_transform": 0})),
    "Gaussian initialisation": Case(Kind({"init_lora_weights": "gaussian"})),
    "no initialisation": Case(Kind({"init_lora_weights": False})),
    "orthogonal initialisation": Case(Kind({"init_lora_weights": "orthogonal"})),
    "EVA": Case(Kind({"init_lora_weights": "eva", "rank_pattern": {"model.layers.0.self_attn.q_proj": 11}})),
    "MiCA": Case(Kind({"init_lora_weights": "mica"})),
    "float16": Case(Kind(dtype=torch.float16)),
    "bfloat16": Case(Kind({"use_rslora": True}, dtype=torch.bfloat16)),
    "float64": Case(Kind(after=edit_tensors(lambda tensors: {name: t.double() for name, t in tensors.items()}))),
    "output layer": Case(
        Kind({"target_modules": ["q_proj", "lm_head"]}), noted="left out the copies of the base model's lm_head.weight"
    ),
    "output layer tied to the input": Case(
        Kind({"target_modules": ["q_proj", "lm_head"]}), noted="left out the copies", base="tied"
    ),
    "input embedding": Case(
        Kind({"target_modules": ["q_proj", "embed_tokens"]}), noted="base model's model.embed_tokens.weight"
    ),
    "both embeddings, tied": Case(
        Kind({"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}),
        noted="lm_head.weight, model.embed_tokens.weight",
        base="tied",
    ),
    "a saved module that was not trained": Case(
        Kind({"modules_to_save": ["lm_head"]}), noted="left out the copies of the base model's lm_head.weight"
    ),
    "a compiled model's": Case(Kind(after=edit_tensors(compiled_names)), noted="torch.compile"),
    "PiSSA, converted by PEFT": Case(Kind({"init_lora_weights": "pissa"}, converted=True)),
    "PiSSA, with the initial adapter": Case(
        Kind({"init_lora_weights": "pissa"}, initial=True), noted="converted pissa to a plain LoRA of twice the rank"
    ),
    "fast PiSSA, with checkpoints as well": Case(
        Kind({"init_lora_weights": "pissa_niter_16"}, initial=True, after=beside), noted="converted pissa_niter_16"
    ),
    "OLoRA, with the initial adapter": Case(
        Kind({"init_lora_weights": "olora", "use_rslora": True, "rank_pattern": {"q_proj": 4}}, initial=True),
        noted="converted olora",
    ),
    "bfloat16 OLoRA of a compiled model": Case(
        Kind({"init_lora_weights": "olora", "r": 4}, initial=True, after=edit_tensors(compiled_names)),
        noted="converted olora",
    ),
    **{
        f"{name}, with the initial adapter": Case(
            # taken out of the base in another way, which makes no difference to how it is put back
            Kind({"init_lora_weights": "pissa"}, initial=True, after=edit_config(init_lora_weights=name)),
            noted=f"converted {name} to a plain LoRA",
        )
        for name in ("corda", "lora_ga", "loftq")
    },
    "an early PEFT's": Case(Kind(after=without(*NEW))),
    "a later PEFT's": Case(
        Kind(after=edit_config(use_new_kernel=True, another_config=None, third=[])), noted="passed over: use_new_kernel"
    ),
    "another trainer's": Case(Kind(after=minimal), named=None),
    "a quantised copy of the base": Case(Kind(), named="unsloth/tiny-llama-1m-unsloth-bnb-4bit"),
    "a hub cache": Case(Kind(), named=f"/home/me/.cache/huggingface/hub/models--owner--{SERVED_ID}/snapshots/0a1b2c"),
    "a folder": Case(Kind(), named=f"C:\\models\\{SERVED_ID}-GPTQ\\"),
    "an alias": Case(Kind(), named="our/alias-awq"),
    "a folder of another name": Case(Kind(), named="./checkpoints/merged", noted="it names './checkpoints/merged'"),
    # refused
    "DoRA": Case(Kind({"use_dora": True}), "use_dora is true; the engine does not serve DoRA"),
    "aLoRA": Case(Kind({"alora_invocation_tokens": [5, 6]}), "the engine does not serve aLoRA"),
    "QALoRA": Case(Kind(after=edit_config(use_qalora=True)), "the engine does not serve QALoRA"),
    "replicated layers": Case(Kind({"layer_replication": [[0, 2], [1, 2]]}), "layer_replication is [[0, 2], [1, 2]]"),
    "Megatron": Case(Kind(after=edit_config(megatron_config={"a": 1})), "megatron_config"),
    "block-diagonal": Case(Kind(after=edit_config(use_bdlora={"nblocks": 2})), "use_bdlora"),
    "Arrow": Case(Kind(after=edit_config(arrow_config={"top_k": 2})), "arrow_config"),
    "KaSA": Case(Kind(after=edit_config(kasa_config={"beta": 1})), "kasa_config"),
    "MonteCLoRA": Case(Kind(after=edit_config(monteclora_config={"n": 1})), "monteclora_config"),
    "single parameters": Case(Kind(after=edit_config(target_parameters=["mlp.x"])), "target_parameters"),
    "a bias of lora_B": Case(Kind({"lora_bias": True}), "lora_bias is true; the engine adds no bias"),
    "trained tokens": Case(Kind({"trainable_token_indices": [1, 2]}), "trainable_token_indices is [1, 2]"),
    "PiSSA alone": Case(Kind({"init_lora_weights": "pissa"}), "path_initial_model_for_weight_conversion"),
    "OLoRA alone": Case(Kind({"init_lora_weights": "olora"}), "init_lora_weights is 'olora'"),
    "LoftQ alone": Case(Kind(after=edit_config(init_lora_weights="loftq")), "init_lora_weights is 'loftq'"),
    "CorDA alone": Case(Kind(after=edit_config(init_lora_weights="corda")), "init_lora_weights is 'corda'"),
    "LoRA-GA alone": Case(Kind(after=edit_config(init_lora_weights="lora_ga")), "init_lora_weights is 'lora_ga'"),
    "an unknown initialisation": Case(Kind(after=edit_config(init_lora_weights="new")), "of which is not known here"),
    "a trained output layer": Case(
        Kind({"modules_to_save": ["lm_head"]}, after=scaled("lm_head.weight", 1.01)),
        "holds the whole weights of lm_head (base_model.model.lm_head.weight), and it differs from the base model's",
    ),
    "a trained norm": Case(
        Kind(after=added("model.norm.weight", 64)),
        "the whole weights of model.norm (base_model.model.model.norm.weight)",
    ),
    "a classifier": Case(Kind(after=added("score.weight", 2, 64)), "the base model has no such weights"),
    "trained biases": Case(Kind(after=added("model.layers.0.mlp.up_proj.base_layer.bias", 96)), "is a trained bias"),
    "DoRA's tensors alone": Case(Kind({"use_dora": True}, after=edit_config(use_dora=False)), "is a magnitude of DoRA"),
    "an untrained one": Case(Kind(strength=0.0), "every lora_B is 0"),
    "a rank beyond the slots": Case(Kind({"r": 40}), "engine.max_rank must be 64 or more"),
    "one layer's rank beyond the slots": Case(Kind({"rank_pattern": {"q_proj": 60}}), "its rank is 60"),
    "a PiSSA that is too large when converted": Case(
        Kind({"init_lora_weights": "pissa", "r": 20}, initial=True), "its rank is 40"
    ),
    "a deeper base of another name": Case(Kind(), "model.layers.2", base="deeper", named="owner/Deep"),
    "a deeper base of the same name": Case(Kind(), "2 decoder layers", base="deeper"),
    "a shallower base of another name": Case(Kind(), "trained on 1 decoder layers", base="shallower", named="owner/x"),
    "a wider base": Case(Kind(), "maps 128 features to 64", base="wider", named="owner/Wide"),
    "a base of more tokens": Case(
        Kind({"target_modules": ["q_proj", "lm_head"]}), "the whole weights of lm_head", base="more tokens"
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    made = {}
    for name, changes in BASES.items():
        torch.manual_seed(0)
        made[name] = tmp_path_factory.mktemp("bases") / "base"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LlamaForCausalLM(LlamaConfig(**(SIZES | changes), initializer_range=0.1)).to(torch.bfloat16)
            model.save_pretrained(made[name])
    return made


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learnware, of which everything but the adapter is used."""
    folder = write_learnware(tmp_path_factory.mktemp("frame") / "learnware")
    save_card(card(base_model=BaseModelReference(id=SERVED_ID)), folder / CARD_FILE)
    return folder


def requirements(base: Path) -> Requirements:
    return Requirements(
        SERVED_ID, layers=read_layers(base), max_rank=MAX_RANK, base=base, aliases=("Owner/Alias", "other")
    )


def changes_in(folder: Path) -> dict[str, torch.Tensor]:
    """What the engine adds to each layer's weights, by the folder's configuration and tensors."""
    config, tensors = checked_config(read_config(folder)), load_file(folder / "adapter_model.safetensors")
    return {
        layer: config.scaling_of(layer) * (tensors[pair.b.name].double() @ tensors[pair.a.name].double())
        for layer, pair in read_header(folder).pairs.items()
    }


def changes_of(model: Any, base: Path) -> dict[str, torch.Tensor]:
    """What PEFT's model adds to the weights of each layer of the unchanged base."""
    plain = dict(load_base(base).named_modules())
    found = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight") and "default" in module.scaling:
            with torch.no_grad():
                change = module.base_layer.weight + module.get_delta_weight("default") - plain[name].weight
            found[name] = (change.T if hasattr(module.base_layer, "embedding_dim") else change).double()
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_is_served_as_peft_computes_it_or_refused(
    name: str, bases: Mapping[str, Path], frame: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    made_on = bases[case.base]
    served_base = bases["tied" if case.base == "tied" else "served"]
    folder = Path(shutil.copytree(frame, tmp_path / "learnware"))
    (folder / "adapter_model.safetensors").unlink()
    expected = make_adapter(
        made_on, folder, case.kind, lambda model: {} if case.refused else changes_of(model, made_on)
    )
    if case.named is not None:
        edit_config(base_model_name_or_path=case.named)(folder)
    needed = requirements(served_base)

    def accept() -> tuple[str, ...]:
        changed = make_servable(folder, needed.base)
        learnware = check_learnware(folder, needed)
        assert learnware.base_model == SERVED_ID
        return (*changed, *learnware.notes)

    if case.refused:
        with pytest.raises(InvalidLearnware) as caught:
            accept()
        assert case.refused in str(caught.value)
        return
    notes = accept()
    assert (case.noted in " ".join(notes)) if case.noted else not notes
    found = changes_in(folder)
    assert found.keys() == expected.keys()
    for layer, change in expected.items():
        assert float((found[layer] - change).norm()) <= 2e-3 * float(change.norm()), layer


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "LOKR", "ADALORA", "PREFIX_TUNING", "OFT", None])
def test_what_is_no_lora_is_refused_by_name(kind: str | None, frame: Path, tmp_path: Path, bases: Any) -> None:
    folder = Path(shutil.copytree(frame, tmp_path / "learnware"))
    edit_config(peft_type=kind)(folder)
    said = f"peft_type LORA, the one kind that the engine serves; it is {json.dumps(kind)}"
    with pytest.raises(InvalidLearnware, match=said):
        make_servable(folder, bases["served"])


def test_an_initial_adapter_that_is_not_clear_is_asked_for(bases: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    make_adapter(bases["served"], folder, Kind({"init_lora_weights": "pissa"}, initial=True), lambda _: None)
    shutil.copytree(folder / INITIAL, folder / "initial")
    with pytest.raises(InvalidLearnware, match="several folders could hold the adapter before its training"):
        make_servable(folder, bases["served"])


def test_what_needs_no_change_is_left_byte_for_byte(bases: Mapping[str, Path], tmp_path: Path) -> None:
    make_adapter(bases["served"], tmp_path, Kind({"use_rslora": True, "bias": "lora_only"}), lambda _: None)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert make_servable(tmp_path, bases["served"]) == ()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_in_parts_are_compared_as_well(bases: Mapping[str, Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(bases["served"], tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    parts = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for part in set(parts.values()):
        save_file({name: tensors[name] for name in tensors if parts[name] == part}, base / part)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    folder = tmp_path / "adapter"
    make_adapter(bases["served"], folder, Kind({"target_modules": ["q_proj", "lm_head"]}), lambda _: None)
    assert make_servable(folder, base) == ("left out the copies of the base model's lm_head.weight",)


def test_measured_scores_stay_with_an_adapter_that_was_converted(
    bases: Mapping[str, Path], frame: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(frame, tmp_path / "learnware"))
    make_adapter(bases["served"], folder, Kind({"init_lora_weights": "olora"}, initial=True), lambda _: None)
    edit_config(base_model_name_or_path=SERVED_ID)(folder)
    save_capability(Capability(SERVED_ID, adapter_hash(folder), "test"), folder / "specification")
    make_servable(folder, bases["served"])
    capability = check_learnware(folder, requirements(bases["served"])).capability
    assert capability is not None
    assert (capability.protocol, capability.adapter_sha256) == ("test", adapter_hash(folder))
