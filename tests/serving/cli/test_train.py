"""The options of `train` are the training settings: each arrives there, and what is not given keeps its default."""

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest

from serving.cli.main import main
from serving.cli.train import add_parser, card_for, settings_of
from serving.training.settings import TrainingSettings
from specs.card import Card, load_card, save_card

GIVEN = {
    "rank": 4,
    "alpha": 3.5,
    "target_modules": ("q_proj", "v_proj"),
    "first_layer_share": 0.25,
    "learning_rate": 0.01,
    "batch": 2,
    "epochs": 1.5,
    "patience": 9,
    "evaluation_rows": 7,
    "keep_rows": 11,
    "keep_batch": 5,
    "keep_weight": 0.5,
    "max_length": 99,
    "max_steps": 3,
    "shuffle_answers": True,
    "seed": 6,
    "checkpoint_seconds": 1.5,
}


def settings(*options: str) -> TrainingSettings:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return settings_of(parser.parse_args(["train", "--rows", "r.jsonl", "--out", "out", *options]))


def test_an_option_that_is_not_given_keeps_the_settings_default() -> None:
    assert settings() == TrainingSettings()


@pytest.mark.parametrize("name", GIVEN)
def test_an_option_arrives_as_the_setting_of_its_name(name: str) -> None:
    value = GIVEN[name]
    words = {True: []}.get(value, [",".join(value) if isinstance(value, tuple) else str(value)])
    assert settings(f"--{name.replace('_', '-')}", *words) == TrainingSettings(**{name: value})


def test_options_that_are_no_setting_of_their_name() -> None:
    assert settings("--max-minutes", "2").max_seconds == 120
    assert settings("--no-keep").keep_rows == 0
    assert settings("--device", "cuda").device == "cuda"


def test_the_help_tells_each_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "passes over the rows at most (default: 3.0)" in said
    assert "(default: q_proj,v_proj,o_proj,down_proj)" in said
    assert "(default: 15)" in said


def card_after(folder: Path, *options: str) -> Card:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", "--rows", "r", "--out", str(folder), *options])
    card = card_for(args, "base", "9 rows, rank 4")
    folder.mkdir(exist_ok=True)
    save_card(card, folder / "learnware.yaml")
    return card


def test_the_card_has_what_options_say_and_a_second_run_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "finance-mood"
    card = card_after(folder, "--domain", "finance", "--licence", "MIT")
    assert (card.id, card.domain, card.tasks, card.licence) == ("finance-mood", "finance", ("mood",), "MIT")
    assert (card.base_model.id, card.version, card.training) == ("base", 1, "9 rows, rank 4")
    again = card_after(folder, "--task", "tone", "--task", "mood", "--version", "2")
    assert again == card.model_copy(update={"tasks": ("tone", "mood"), "version": 2})


@pytest.mark.slow
def test_chats_are_trained_on_and_the_next_command_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from serving import base_model
    from serving.training import adapter

    trained: list[Any] = []

    def train(rows: Any, base: Path, base_id: str, out: Path, *_: object) -> Path:
        trained.extend(rows)
        out.mkdir()
        return out

    monkeypatch.setattr(adapter, "train_adapter", train)
    monkeypatch.setattr(base_model, "ensure_base_model", lambda *_: tmp_path)
    rows, out = tmp_path / "my rows.json", tmp_path / "out"
    rows.write_text('[{"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "one"}]}]')
    command = ["train", "--rows", str(rows), "--out", str(out), "--threads", "1"]
    assert main([*command, "--id", "no id"]) == 1
    assert "the card cannot have id 'no id'" in capsys.readouterr().err
    assert trained == []
    assert main(command) == 0
    assert [(row.prompt, row.answer) for row in trained] == [("1", "one")]
    assert f"next: learnware-serving learnware add {out} --rows '{rows}'" in capsys.readouterr().out
    assert load_card(out / "learnware.yaml").id == "out"
    shutil.rmtree(out)
    assert main([*command, "--shuffle-answers"]) == 0
    assert not (out / "learnware.yaml").exists()
