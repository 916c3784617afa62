"""The options of `train` are the training settings: each arrives there, and what is not given keeps its default."""

import argparse

import pytest

from serving.cli.train import add_parser, settings_of
from serving.training.settings import TrainingSettings

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
