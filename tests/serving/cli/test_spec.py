"""`learnware-serving spec …`, through the command line's own parser."""

import argparse
import json
from pathlib import Path

import pytest

from serving.cli.spec import add_parser
from specs.answers.description import Answers
from specs.card import load_card, save_card
from specs.errors import InvalidInput, InvalidLearnware, InvalidSpecification
from specs.learnware import load_learnware
from specs.task import load_task_specification, task_id
from tests.specs.learnware_folder import PROMPTS, card, write_learnware


def run(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["spec", *map(str, arguments)])
    return int(options.run(options))


def write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "red"}) + "\n" for prompt in PROMPTS))
    return path


def test_make_learnware_writes_card_and_specification(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_learnware(tmp_path / "made")
    save_card(card("made-here", examples=("What colour is my bicycle?",)), tmp_path / "card.yaml")
    rows = write_rows(tmp_path / "rows.jsonl")
    assert run("make-learnware", folder, "--rows", rows, "--card", tmp_path / "card.yaml") == 0
    learnware = load_learnware(folder)
    assert learnware.id == "made-here"
    assert [(view.name, view.rows) for view in learnware.specification.views] == [
        ("whole", 30),
        ("examples", 1),
        ("asked", 120),
    ]
    assert learnware.specification.answers == Answers("span", (), (1, 1, 1))
    assert learnware.specification.declined is not None
    assert load_card(folder / "learnware.yaml").examples == ("What colour is my bicycle?",)
    assert run("show", folder) == 0
    assert "made-here, version 1" in capsys.readouterr().out


def test_choices_tell_labels_and_rows_without_answers_tell_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = write_learnware(tmp_path / "made"), tmp_path / "rows.jsonl"
    given = [
        {"prompt": prompt, "answer": ("red", "blue")[number % 3 == 0], "choices": ["blue", "red"]}
        for number, prompt in enumerate(PROMPTS)
    ]
    rows.write_text("".join(json.dumps(row) + "\n" for row in given))
    assert run("make-learnware", folder, "--rows", rows) == 0
    answers = load_learnware(folder).specification.answers
    assert answers is not None
    assert (answers.kind, answers.labels) == ("label", ("red", "blue"))
    assert "answers: label (red, blue)" in capsys.readouterr().out
    rows.write_text(rows.read_text() + json.dumps({"prompt": "Which colour has the door?"}) + "\n")
    assert run("make-learnware", folder, "--rows", rows) == 0
    specification = load_learnware(folder).specification
    assert (specification.answers, specification.declined) == (None, None)
    assert "Some rows have no answer" in capsys.readouterr().out


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    rows, content = write_rows(tmp_path / "rows.jsonl"), []
    for name in ("one", "two"):
        folder = write_learnware(tmp_path / name)
        run("make-learnware", folder, "--rows", rows)
        content.append((folder / "specification" / "points.safetensors").read_bytes())
    assert content[0] == content[1]


def test_make_writes_a_task_specification_that_show_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, file = write_rows(tmp_path / "rows.jsonl"), tmp_path / "task.spec"
    assert run("make", rows, "-o", file) == 0
    made = load_task_specification(file.read_bytes())
    assert (made.rows, made.mu) == (30, pytest.approx(1.0))
    said = capsys.readouterr().out
    assert f"{task_id(made)}, from 30 rows" in said
    assert "AUC above 0.76" in said
    assert run("show", file) == 0
    assert capsys.readouterr().out == said
    assert run("make", rows, "-o", file, "--mu", "0.5") == 0
    assert load_task_specification(file.read_bytes()).noise == pytest.approx(2 / 30 / 0.5)


def test_a_task_specification_is_refused_with_the_line_or_the_place(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")
    with pytest.raises(InvalidInput, match="cannot be written"):
        run("make", rows, "-o", tmp_path / "missing" / "task.spec")
    rows.write_text(rows.read_text() + "{}\n")
    with pytest.raises(InvalidInput, match="line 31"):
        run("make", rows, "-o", tmp_path / "task.spec")
    with pytest.raises(InvalidSpecification):
        run("show", rows)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("", "holds no rows"),
        ("{", "line 1 is not JSON"),
        ('{"text": "a"}', "needs a `prompt`"),
        ('{"prompt": "a", "answer": [1]}', "`answer` must be a text"),
        ('{"prompt": "a", "answer": "b", "choices": [1]}', "`choices` must be a list of texts"),
        ('{"prompt": "a", "answer": "b", "choices": "ab"}', "`choices` must be a list of texts"),
        ('{"prompt": "a", "answer": "b", "choices": 3}', "`choices` must be a list of texts"),
    ],
)
def test_unusable_rows_are_refused(tmp_path: Path, rows: str, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(InvalidInput, match=reason):
        run("make-learnware", write_learnware(tmp_path / "made"), "--rows", tmp_path / "rows.jsonl")


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidLearnware, match=r"learnware\.yaml is missing"):
        run("make-learnware", tmp_path, "--rows", write_rows(tmp_path / "rows.jsonl"))
