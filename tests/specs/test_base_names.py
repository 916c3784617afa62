"""Names of base models: which mean the same one, and when a name decides."""

from pathlib import Path

import pytest

from specs.base_names import BaseModel, check_base, names_of, plain_name, same_name
from specs.errors import InvalidLearnware

LAYERS = {f"model.layers.{depth}.self_attn.q_proj": (8, 8) for depth in range(4)}
QWEN = [
    "Qwen3-8B",
    "qwen/qwen3-8b",
    "unsloth/Qwen3-8B-bnb-4bit",
    "unsloth/Qwen3-8B-unsloth-bnb-4bit",
    "Qwen/Qwen3-8B-GPTQ-Int4",
    "Qwen/Qwen3-8B-AWQ",
    "Qwen/Qwen3-8B-GGUF",
    "someone/Qwen3-8B-Q4_K_M.gguf",
    "Qwen/Qwen3-8B-FP8",
    "RedHatAI/Qwen3-8B-FP8-dynamic",
    "RedHatAI/Qwen3-8B-quantized.w4a16",
    "mlx-community/Qwen3-8B-8bit",
    "mlx-community/Qwen3-8B-MLX-4bit",
    "/data/models/Qwen3-8B/",
    "./Qwen3-8B-bf16",
    r"C:\models\Qwen3-8B" + "\\",
    "~/.cache/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/b968826d9c46dd6066d109eabc6255188de91218",
    "/root/hub/models--unsloth--qwen3-8b-unsloth-bnb-4bit",
    " Qwen/Qwen3_8B ",
]


@pytest.mark.parametrize("name", QWEN)
def test_one_model_by_many_names(name: str) -> None:
    assert plain_name(name) == "qwen3-8b"
    assert same_name(name, "Qwen/Qwen3-8B")


@pytest.mark.parametrize(
    "name",
    ["Qwen/Qwen3-8B-Base", "Qwen/Qwen3-4B", "Qwen/Qwen3-80B", "Qwen/Qwen2-8B", "meta/Llama-3.1-8B", "8B", "", "/"],
)
def test_other_models_have_other_names(name: str) -> None:
    assert not same_name(name, "Qwen/Qwen3-8B")


def test_no_name_means_no_model() -> None:
    assert not same_name("", "")
    assert not BaseModel("m").is_called("")


def test_the_model_names_itself(tmp_path: Path) -> None:
    assert names_of(tmp_path) == ()
    (tmp_path / "config.json").write_text('{"_name_or_path": "Qwen/Qwen3-8B"}')
    assert names_of(tmp_path) == ("Qwen/Qwen3-8B",)
    (tmp_path / "config.json").write_text('{"_name_or_path": ""}')
    assert names_of(tmp_path) == ()


def check(names: list[str], base: BaseModel, layers: int = 4, depth: int | None = None) -> tuple[str, ...]:
    return check_base(names, dict(list(LAYERS.items())[:layers]), depth, base)


def test_where_layers_are_known_a_name_is_a_note() -> None:
    base = BaseModel("Qwen3-8B", ("mine",), LAYERS)
    assert check(["unsloth/qwen3-8b-bnb-4bit", "Qwen/Qwen3-8B"], base) == ()
    assert check(["runs/MINE", "mine"], base) == ()
    assert check(["mine"], base) == ()
    notes = check(["./merged", "Qwen3-8B"], base)
    assert len(notes) == 1
    assert "it names './merged' as its base model; every layer fits 'Qwen3-8B'" in notes[0]
    assert len(check(["./merged", "owner/other"], base)) == 2


def test_covering_some_layers_is_no_sign_of_another_base_unless_it_has_another_name() -> None:
    base = BaseModel("Qwen3-8B", (), LAYERS)
    assert check(["Qwen3-8B"], base, 2, depth=2) == ()
    assert len(check(["other", "Qwen3-8B"], base, 2, depth=None)) == 1
    with pytest.raises(InvalidLearnware, match="trained on 2 decoder layers, and this has 4"):
        check(["other", "Qwen3-8B"], base, 2, depth=2)


def test_another_size_is_another_base_whatever_its_name() -> None:
    wide = {"model.layers.0.self_attn.q_proj": (16, 8)}
    base = BaseModel("Qwen3-8B", (), LAYERS)
    with pytest.raises(InvalidLearnware, match=r"^model\.layers\.0\.self_attn\.q_proj: the adapter maps 16 features"):
        check_base(["Qwen3-8B"], wide, None, base)
    with pytest.raises(InvalidLearnware, match=r"^it is an adapter for 'x'; the base model here is 'Qwen3-8B': model"):
        check_base(["Qwen3-8B", "x"], wide, None, base)


@pytest.mark.parametrize(("base", "read"), [(BaseModel("Qwen3-8B"), 4), (BaseModel("Qwen3-8B", (), LAYERS), 0)])
def test_where_layers_are_not_known_names_decide(base: BaseModel, read: int) -> None:
    assert check(["unsloth/Qwen3-8B", "Qwen/Qwen3-8B"], base, read) == ()
    with pytest.raises(InvalidLearnware, match="it is an adapter for 'Qwen/Qwen3-4B'; the base model here is 'Qwen3-"):
        check(["Qwen/Qwen3-4B", "Qwen/Qwen3-8B"], base, read)
