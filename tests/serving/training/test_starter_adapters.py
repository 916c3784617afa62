"""The starter learnwares' adapters are what the engine and the README expect."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from serving.base_model import EMBEDDED_ID
from serving.paths import STARTER_FOLDER

MEGABYTE_AND_A_HALF = 1_500_000
TASKS = {
    "finance": ["australian_credit", "fin_ner_type", "fiqa_sa", "tfns", "xbrl_term"],
    "healthcare": ["medqa_usmle", "medquad_qa", "mmlu_medical_subject", "pubmed_section", "pubmedqa"],
    "mathematics": ["agieval_gaokao_mathqa", "aqua_rat", "gsm8k_first_operation", "gsm8k_solution", "svamp_operation"],
}
NAMES = [f"{domain}-{task}" for domain, tasks in TASKS.items() for task in tasks]


def test_there_are_exactly_the_fifteen() -> None:
    assert sorted(path.parent.name for path in STARTER_FOLDER.glob("*/adapter_config.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_is_small_bf16_lora_of_the_embedded_base(name: str) -> None:
    folder = STARTER_FOLDER / name
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == EMBEDDED_ID
    assert config["peft_type"] == "LORA"
    assert config["r"] == 8
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj", "v_proj"]
    assert (folder / "adapter_model.safetensors").stat().st_size <= MEGABYTE_AND_A_HALF
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(key).get_dtype() for key in names} == {"BF16"}
        layers = {int(key.split(".layers.")[1].split(".")[0]) for key in names}
        assert sorted(layers) == config["layers_to_transform"]
        assert len(names) == 2 * len(config["target_modules"]) * len(layers)
        assert any(bool(weights.get_tensor(key).any()) for key in names if "lora_B" in key), "an adapter of zeros"


@pytest.mark.parametrize("name", NAMES)
def test_its_record_says_how_it_was_trained_and_where_its_data_comes_from(name: str) -> None:
    record = json.loads((STARTER_FOLDER / name / "training.json").read_text(encoding="utf-8"))
    assert record["base_model"] == EMBEDDED_ID
    assert record["settings"]["shuffle_answers"] is False
    assert record["steps"] > 0
    weight = record["settings"]["keep_weight"]  # of the divergence from the base, beside the task's loss
    costs = [loss + weight * drift for _, _, loss, _, drift in record["history"]]
    assert record["best"]["loss"] + weight * record["best"]["drift"] <= min(costs) + 1e-3
    assert f"| `{name}` |" in (STARTER_FOLDER / "ATTRIBUTION.md").read_text(encoding="utf-8")


def test_nothing_but_adapters_lies_there() -> None:
    checkpoints = [path for path in Path(STARTER_FOLDER).rglob("*") if path.suffix in {".pt", ".bin", ".pkl"}]
    assert checkpoints == []
