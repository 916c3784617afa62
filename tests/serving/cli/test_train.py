"""The options of `train` are the training settings: each arrives there, and what is not given keeps its default."""

import argparse
from pathlib import Path

import pytest

from serving.cli.train import add_parser, settings_of, write_card
from serving.training.settings import TrainingSettings
from specs.card import Card, load_card

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
    write_card(parser.parse_args(["train", "--rows", "r", "--out", "o", *options]), folder, "base", "9 rows, rank 4")
    return load_card(folder / "learnware.yaml")


def test_the_card_has_what_options_say_and_a_second_run_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "finance-mood"
    folder.mkdir()
    card = card_after(folder, "--domain", "finance", "--licence", "MIT")
    assert (card.id, card.domain, card.tasks, card.licence) == ("finance-mood", "finance", ("mood",), "MIT")
    assert (card.base_model.id, card.version, card.training) == ("base", 1, "9 rows, rank 4")
    again = card_after(folder, "--task", "tone", "--task", "mood", "--version", "2")
    assert again == card.model_copy(update={"tasks": ("tone", "mood"), "version": 2})
