"""Learnware folders: a whole one loads, and each broken one is refused with what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from specs.adapter import adapter_hash, check_adapter
from specs.base_names import BaseModel
from specs.capability import Capability, capability_of, save_capability
from specs.encoding.encoder import PROMPT_ENCODER, load_prompt_encoder
from specs.errors import DuplicateLearnware, InvalidLearnware, InvalidSpecification
from specs.learnware import load_learnware, load_learnwares
from tests.specs.learnware_folder import BASE, LAYER, adapter_config, adapter_tensors, write_format_1, write_learnware

Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("learnwares") / "colours-objects")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def test_a_whole_folder_loads(folder: Path) -> None:
    learnware = load_learnware(folder)
    assert (learnware.id, learnware.rank, learnware.base_model) == ("colours-objects", 4, BASE)
    assert learnware.specification.whole_set.weights.sum() == pytest.approx(1)


def test_without_a_specification_it_is_called_by_name_only(folder: Path) -> None:
    shutil.rmtree(folder / "specification")
    learnware = load_learnware(folder)
    assert learnware.specification is None
    with pytest.raises(InvalidSpecification, match="colours-objects has no specification: make one from rows"):
        _ = learnware.specified


def test_a_specification_of_the_first_format_gets_the_asks_of_its_card(folder: Path) -> None:
    write_format_1(folder / "specification")
    _card(examples=["Say which colour it has.", "Name the colour of this thing."])(folder)
    learnware = load_learnware(folder)
    encoder = load_prompt_encoder()
    assert learnware.specification.encoder_id == PROMPT_ENCODER
    _, asks = encoder.parts(learnware.specification.whole_set.points)
    expected = encoder.encode_asks([("Say which colour it has.",), ("Name the colour of this thing.",)])
    assert asks[:2] == pytest.approx(expected, abs=1e-5)
    _card(examples=[])(folder)
    _, asks = encoder.parts(load_learnware(folder).specification.whole_set.points)
    assert asks[0] == pytest.approx(encoder.encode_asks([("Says which colour an object has.",)])[0], abs=1e-5)


def _config(**changes: object) -> Break:
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps(adapter_config(**changes)))


def _tensors(change: Callable[[dict[str, np.ndarray]], object], file: str = "adapter_model.safetensors") -> Break:
    def apply(folder: Path) -> None:
        tensors = {name: value.copy() for name, value in load_file(folder / file).items()}
        change(tensors)
        save_file(tensors, folder / file)

    return apply


def _card(**changes: object) -> Break:
    def apply(folder: Path) -> None:
        values = yaml.safe_load((folder / "learnware.yaml").read_text())
        (folder / "learnware.yaml").write_text(yaml.safe_dump(values | changes))

    return apply


def _cut(file: str, keep: float) -> Break:
    def apply(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * keep)])

    return apply


def _description(**changes: object) -> Break:
    def apply(folder: Path) -> None:
        path = folder / "specification" / "specification.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def _nan(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].flat[3] = np.nan

    return change


POINTS = "specification/points.safetensors"
A, B = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"

FAULTS: dict[str, tuple[Break, str]] = {
    "no card": (lambda folder: (folder / "learnware.yaml").unlink(), "missing; `learnware-serving learnware add`"),
    "card is not YAML": (lambda folder: (folder / "learnware.yaml").write_text("a: [1"), "not YAML"),
    "card would run code": (
        lambda folder: (folder / "learnware.yaml").write_text("!!python/object/apply:os.system ['true']"),
        "not YAML",
    ),
    "unknown key": (_card(licens="MIT"), "unknown key licens; did you mean licence"),
    "id with two slashes": (_card(id="a/b/c"), "id: 'a/b/c' is no learnware's id"),
    "no adapter configuration": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "adapter_config.json is missing",
    ),
    "not LoRA": (_config(peft_type="PREFIX_TUNING"), "peft_type LORA"),
    "rank is no number": (_config(r="four"), "r is 'four'"),
    "rank differs from the tensors": (_config(r=8), "says r = 8"),
    "DoRA": (_config(use_dora=True), "use_dora"),
    "pickled weights alone": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "only safetensors",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors is missing",
    ),
    "weights cut in the data": (_cut("adapter_model.safetensors", 0.8), "truncated"),
    "weights cut in the header": (_cut("adapter_model.safetensors", 0.05), "truncated, or is no safetensors file"),
    "NaN in the weights": (_tensors(_nan(A)), "NaN or infinite"),
    "half a pair": (_tensors(lambda tensors: tensors.pop(B)), "needs lora_A and lora_B"),
    "tensor that is no LoRA": (
        _tensors(lambda tensors: tensors.update({"model.embed.weight": np.zeros((2, 2), np.float32)})),
        "not a LoRA tensor",
    ),
    "integer weights": (
        _tensors(lambda tensors: tensors.update({A: np.zeros((4, 8), np.int32)})),
        "two dimensions and one of",
    ),
    "points alone": (
        lambda folder: (folder / "specification" / "specification.json").unlink(),
        "specification.json is missing",
    ),
    "points cut": (_cut(POINTS, 0.9), "not a whole safetensors file"),
    "NaN in the points": (_tensors(_nan("points"), POINTS), "NaN or infinite"),
    "points of another width": (
        _tensors(lambda tensors: tensors.update(points=tensors["points"][:, :5].copy()), POINTS),
        "points have shape",
    ),
    "weights that sum to 2": (
        _tensors(lambda tensors: tensors.update(weights=tensors["weights"] * 2), POINTS),
        "sum to 1",
    ),
    "other encoder": (
        _description(encoder={"id": "nobody", "sha256": ""}),
        "made with encoder 'nobody'; format 2 is read with",
    ),
    "other data of the encoder": (
        _description(encoder={"id": PROMPT_ENCODER, "sha256": "0" * 64}),
        "made with other data",
    ),
    "other type": (_description(type="pave"), "type 'pave'"),
    "views that miscount": (_description(views=[{"name": "whole", "rows": 3, "points": 2}]), "views count 2 points"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_folder_is_refused_with_the_reason(folder: Path, fault: str) -> None:
    damage, reason = FAULTS[fault]
    damage(folder)
    with pytest.raises(InvalidLearnware, match=r"learnware colours-objects: ") as caught:
        load_learnware(folder)
    assert reason in str(caught.value)


def test_bfloat16_infinities_are_found(folder: Path) -> None:
    header = {name: {"dtype": "BF16", "shape": list(value.shape)} for name, value in adapter_tensors().items()}
    data = b""
    for name, value in adapter_tensors().items():
        bits = (value.view(np.uint32) >> 16).astype(np.uint16)
        if name == B:
            bits.flat[0] = 0x7F80
        header[name]["data_offsets"] = [len(data), len(data) + bits.nbytes]
        data += bits.tobytes()
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(InvalidLearnware, match=r"lora_B\.weight has NaN or infinite"):
        load_learnware(folder)


def test_two_learnwares_with_one_id_are_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "one")
    shutil.copytree(whole, tmp_path / "two")
    with pytest.raises(DuplicateLearnware, match="one and two"):
        load_learnwares(tmp_path)


def test_learnwares_come_sorted_and_for_one_base_only(whole: Path, tmp_path: Path) -> None:
    for name in ("b", "a"):
        _card(id=name)(Path(shutil.copytree(whole, tmp_path / f"folder-{name}")))
    assert [learnware.id for learnware in load_learnwares(tmp_path)] == ["a", "b"]
    with pytest.raises(InvalidLearnware, match="the base model here is 'another'"):
        load_learnwares(tmp_path, base_model="another")


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidLearnware, match="nowhere does not exist"):
        load_learnwares(tmp_path / "nowhere")


def test_without_values_only_the_header_is_read(folder: Path) -> None:
    _tensors(_nan(A))(folder)
    assert check_adapter(folder, values=False).layers == {"model.layers.0.self_attn.q_proj": (8, 8)}
    assert load_learnware(folder, values=False).rank == 4
    with pytest.raises(InvalidLearnware, match="NaN or infinite"):
        check_adapter(folder)
    _cut("adapter_model.safetensors", 0.8)(folder)
    with pytest.raises(InvalidLearnware, match="truncated"):
        check_adapter(folder, values=False)


LAYERS = {f"model.layers.{depth}.self_attn.{name}_proj": (8, 8) for depth in range(2) for name in "qkvo"}
SERVED = BaseModel("Served-1B", ("owner/mine",), LAYERS)


def _measured(base: str) -> Break:
    return lambda folder: save_capability(Capability(base, adapter_hash(folder), "test"), folder / "specification")


def test_the_learnware_carries_the_name_of_the_base_that_is_served(folder: Path) -> None:
    _config(base_model_name_or_path="unsloth/served-1b-bnb-4bit")(folder)
    _card(base_model={"id": "me/Mine"})(folder)
    _measured("someone/Served-1B-GPTQ")(folder)
    learnware = load_learnware(folder, base_model=SERVED)
    assert (learnware.base_model, learnware.notes) == ("Served-1B", ())
    assert learnware.capability is not None
    assert learnware.capability.base_model == "Served-1B"
    assert capability_of(folder / "specification", "Served-1B", adapter_hash(folder)).protocol == "test"


@pytest.mark.parametrize("weights", [True, False])
def test_another_name_is_a_note_and_scores_of_that_name_do_not_count(folder: Path, weights: bool) -> None:
    _config(base_model_name_or_path="./merged", layers_to_transform=[0])(folder)
    _card(base_model={"id": "./merged"})(folder)
    _measured("./merged")(folder)
    learnware = load_learnware(folder, base_model=SERVED, weights=weights)
    assert learnware.base_model == "Served-1B"
    assert "it names './merged'" in learnware.notes[0]
    assert "its measured scores are of './merged' and are not used over 'Served-1B'" in learnware.notes[1]
    assert learnware.capability is None
    _measured("Served-1B")(folder)
    assert load_learnware(folder, base_model=SERVED, weights=weights).capability is not None


def test_scores_of_another_base_or_other_weights_are_refused(folder: Path) -> None:
    for base, digest in (("elsewhere", adapter_hash(folder)), (BASE, "0" * 64)):
        save_capability(Capability(base, digest, "test"), folder / "specification")
        with pytest.raises(InvalidLearnware, match="was measured with other weights or another base model"):
            load_learnware(folder)


@pytest.mark.parametrize("weights", [True, False])
def test_that_the_card_names_another_base_than_the_adapter_is_noted(folder: Path, weights: bool) -> None:
    _config(base_model_name_or_path="./merged")(folder)
    learnware = load_learnware(folder, weights=weights)
    assert (learnware.base_model, learnware.base_names) == (BASE, ("./merged", BASE))
    assert learnware.notes == ("the adapter was trained on './merged', but its card says 'tiny-base'",)
    with pytest.raises(InvalidLearnware, match=r"it is an adapter for '\./merged'; the base model here is 'tiny-base'"):
        load_learnware(folder, base_model=BASE, weights=weights)


def test_a_rank_that_no_layer_has_counts_for_no_slot(folder: Path) -> None:
    _config(r=64, rank_pattern={"q_proj": 4})(folder)
    assert check_adapter(folder).rank == 4
    assert check_adapter(folder, weights=False).rank == 4
