"""Shares of specifications that get the right learnware, on tasks written here."""

import json
from pathlib import Path

import pytest

from benchmarks.common.tasks import STARTER_LEARNWARES
from benchmarks.task_choice import main
from specs.learnware import load_learnware
from specs.prompts import everyday_prompts

NEWS = [
    "Is the sentiment of this financial news positive, neutral or negative?\n"
    f"{company} said operating profit {change} to EUR {number / 10} mn."
    for company in ("Nokia", "Elisa", "Kone", "Outokumpu", "Finnair")
    for change in ("rose", "fell")
    for number in range(30)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for task, prompts in (("finance/tfns", NEWS), ("general/talk", everyday_prompts()[:300])):
        path = tmp_path / f"{task}.test.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return tmp_path


@pytest.mark.slow
def test_own_tasks_and_foreign_ones_are_told_apart(data: Path, tmp_path: Path) -> None:
    """With rows enough; with hardly any the noise sends nearly everything to the base model."""
    out = tmp_path / "result.json"
    assert main(["--data", str(data), "--rows", "2", "200", "--draws", "20", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert load_learnware(STARTER_LEARNWARES / "finance-tfns").tasks == ("tfns",)
    assert (figures["right_200"], figures["own_wrong_domain_200"], figures["foreign_chosen_200"]) == (1.0, 0, 0)
    assert figures["base_2"] >= 0.8
    assert figures["foreign_chosen_2"] <= 0.2


@pytest.mark.slow
def test_missing_rows_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "holds no <domain>/<task>.test.jsonl" in capsys.readouterr().err
