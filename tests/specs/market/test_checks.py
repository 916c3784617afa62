"""Submissions that arrive well and must still be refused: each fault in a real file, each with its own reason."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from specs.adapter import adapter_hash
from specs.base_layers import check_fits, read_layers
from specs.capability import Capability, save_capability
from specs.errors import InvalidInput, InvalidLearnware
from specs.learnware import load_learnware
from specs.market.catalogue import read_catalogue
from specs.market.checks import check_learnware
from specs.market.journal import State
from specs.market.store import Market
from tests.specs.learnware_folder import BASE, LAYER, adapter_config
from tests.specs.market.support import CONFIG, edit_card, pack, requirements, variant

Break = Callable[[Path], object]
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
WEIGHTS = "adapter_model.safetensors"


def config(**changes: object) -> Break:
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps(adapter_config(**changes)))


def tensors(change: Callable[[dict[str, np.ndarray]], object], **configured: object) -> Break:
    def apply(folder: Path) -> None:
        values = load_file(folder / WEIGHTS)
        change(values)
        save_file(values, folder / WEIGHTS)
        config(**configured)(folder)

    return apply


def renamed(old: str, new: str) -> Callable[[dict[str, np.ndarray]], object]:
    def change(values: dict[str, np.ndarray]) -> None:
        for name in list(values):
            values[name.replace(old, new)] = values.pop(name)

    return change


def resized(rank: int, features_in: int, features_out: int) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda values: values.update(
        {A: np.ones((rank, features_in), np.float32), B: np.ones((features_out, rank), np.float32)}
    )


def with_gap(folder: Path) -> None:
    """A header that skips eight bytes of the data: numpy would read it, the engine's reader refuses it."""
    path = folder / WEIGHTS
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for tensor in header.values():
        tensor["data_offsets"] = [end + 8 for end in tensor["data_offsets"]]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8) + raw[8 + length :])


def with_negative_place(folder: Path) -> None:
    path = folder / WEIGHTS
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header[A]["data_offsets"][0] = -128
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def specification(**changes: object) -> Break:
    def apply(folder: Path) -> None:
        path = folder / "specification" / "specification.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


FAULTS: dict[str, tuple[Break, str]] = {
    "another base model": (
        lambda folder: (edit_card(folder, base_model={"id": "other"}), config(base_model_name_or_path="other")(folder)),
        "it is an adapter for 'other'; the base model here is 'tiny-base'",
    ),
    "another revision in the card": (
        lambda folder: edit_card(folder, base_model={"id": BASE, "revision": "rev-0"}),
        "it is for revision 'rev-0' of the base model; served is 'rev-1'",
    ),
    "another revision in the adapter": (config(revision="rev-2"), "it is for revision 'rev-2'"),
    "a rank that no slot holds": (
        tensors(resized(16, 8, 8), r=16),
        "its rank is 16; the engine's slots hold up to 8: engine.max_rank must be 16 or more to serve it",
    ),
    "a layer that the base lacks": (
        tensors(renamed("layers.0", "layers.7")),
        "1 of the adapter's 1 layers are not in the base model: model.layers.7.self_attn.q_proj; it takes adapters for",
    ),
    "a module that takes no adapter": (
        tensors(renamed("self_attn.q_proj", "input_layernorm"), target_modules=["input_layernorm"]),
        "not in the base model: model.layers.0.input_layernorm",
    ),
    "another size in": (tensors(resized(4, 12, 8)), "the adapter maps 12 features to 8, the base model's layer 8 to 8"),
    "another size out": (tensors(resized(4, 8, 4)), "the adapter maps 8 features to 4, the base model's layer 8 to 8"),
    "tensors of a module that is no target": (
        config(target_modules=["v_proj"]),
        "has tensors for model.layers.0.self_attn.q_proj, but target_modules and exclude_modules",
    ),
    "tensors of an excluded module": (
        config(exclude_modules=["self_attn.q_proj"]),
        "has tensors for model.layers.0.self_attn.q_proj, but target_modules and exclude_modules",
    ),
    "no target modules": (config(target_modules=[]), "target_modules must list the modules"),
    "every lora_B is 0": (
        tensors(lambda values: values.update({B: np.zeros_like(values[B])})),
        "every lora_B is 0, so the adapter changes nothing",
    ),
    "every lora_A is -0": (
        tensors(lambda values: values.update({A: -np.zeros_like(values[A])})),
        "every lora_A is 0, so the adapter changes nothing",
    ),
    "infinite weights": (tensors(lambda values: values[A].fill(np.inf)), "NaN or infinite"),
    "a scale of a layer that is no number": (config(alpha_pattern={"q_proj": "2"}), "alpha_pattern of 'q_proj' is '2'"),
    "a layer's rank that its tensors have not": (
        config(rank_pattern={"self_attn.q_proj": 2}),
        "has shape (4, 8), but adapter_config.json says r = 2 for it (rank_pattern)",
    ),
    "a scale that is no number": (config(lora_alpha="big"), "lora_alpha is 'big'"),
    "a gap in the weights": (with_gap, "is no safetensors file"),
    "weights that begin before the file": (with_negative_place, "is no safetensors file"),
    "an id that means the router": (lambda folder: edit_card(folder, id="auto"), "its id must not be 'auto'"),
    "an id that is the base model's": (lambda folder: edit_card(folder, id=BASE), "its id must not be 'tiny-base'"),
    "a specification of an unknown type": (specification(type="words"), "type 'words'"),
    "a specification of another encoder": (specification(encoder={"id": "e5", "sha256": ""}), "made with encoder 'e5'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_is_refused_with_its_reason_and_kept_in_quarantine(
    whole: Path, market: Market, tmp_path: Path, fault: str
) -> None:
    damage, reason = FAULTS[fault]
    folder = variant(whole, tmp_path / "colours-objects", "colours-objects")
    damage(folder)
    with pytest.raises(InvalidLearnware) as caught, market.stage(pack(folder, tmp_path / "submitted.zip")):
        pass
    assert reason in str(caught.value)
    (record,) = market.records(State.QUARANTINED)
    assert record.reason == str(caught.value)
    kept = market.folder(record)
    assert kept is not None
    assert (kept / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert market.records() == []
    assert market.check_integrity() == []


def test_the_layers_of_a_base_come_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    layers = read_layers(tmp_path)
    assert layers is not None
    assert len(layers) == 2 * 7 + 2
    assert layers["model.layers.1.self_attn.k_proj"] == (8, 4)
    assert layers["model.layers.0.mlp.down_proj"] == (16, 8)
    assert layers["lm_head"] == (8, 32)
    assert layers["model.embed_tokens"] == (32, 8)
    check_fits({"model.layers.1.mlp.gate_proj": (8, 16)}, layers)


def test_a_base_of_unknown_kind_has_no_layers_to_compare_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"model_type": "mamba"}))
    assert read_layers(tmp_path) is None
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"config.json of the base model in .* cannot be read"):
        read_layers(tmp_path)


def test_another_name_of_the_base_is_noted_and_its_scores_are_left_out(
    whole: Path, market: Market, tmp_path: Path
) -> None:
    folder = variant(whole, tmp_path / "colours-objects", "colours-objects")
    config(base_model_name_or_path="./merged", layers_to_transform=[0])(folder)
    edit_card(folder, base_model={"id": "./merged"})
    save_capability(Capability("./merged", adapter_hash(folder), "test"), folder / "specification")
    with market.stage(pack(folder, tmp_path / "submitted.zip")) as staged:
        assert [note.split(";")[0] for note in staged.learnware.notes] == [
            "it names './merged' as its base model",
            "its measured scores are of './merged' and are not used over 'tiny-base'",
        ]
        market.submit(staged)
    (entry,) = read_catalogue(market.root).entries
    served = load_learnware(entry.folder, weights=False)
    assert (served.id, served.capability) == ("colours-objects", None)


def test_whole_weights_are_compared_with_the_base_of_the_market(whole: Path, tmp_path: Path) -> None:
    needed = replace(requirements(tmp_path / "base"), base=tmp_path / "base")
    head = np.arange(256, dtype=np.float32).reshape(32, 8)
    save_file({"lm_head.weight": head}, tmp_path / "base" / "model.safetensors")
    copy = "base_model.model.lm_head.base_layer.weight"
    equal = variant(whole, tmp_path / "equal", "equal")
    tensors(lambda values: values.update({copy: head}))(equal)
    other = variant(whole, tmp_path / "other", "other")
    tensors(lambda values: values.update({copy: head + 1}))(other)
    market = Market(tmp_path / "market", needed)
    with market.stage(equal) as staged:
        assert "left out the copies of the base model's lm_head.weight" in staged.learnware.notes
        assert set(load_file(staged.folder / WEIGHTS)) == {A, B}
    with pytest.raises(InvalidLearnware, match="it differs from the base model's"), market.stage(other):
        pass
    with pytest.raises(InvalidLearnware, match="it differs from the base model's"):
        check_learnware(other, needed)
    assert check_learnware(equal, needed).id == "equal"
