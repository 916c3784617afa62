"""The score matrix: which cells are measured, what is kept of them, and that measuring them again agrees."""

import json
import math
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.common.scores import read_scores
from serving.cli.main import main
from serving.cli.matrix import read_candidates
from serving.training.matrix import Cell, adapter_folders, sampled, task_rows, wanted_cells
from serving.training.rows import hold_out
from serving.training.scoring import RowScore
from serving.training.settings import TrainingSettings
from specs.adapter import adapter_hash
from specs.capability import load_capability
from specs.errors import InvalidInput


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def learnwares(colours_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """toy-colours, and play-copy, the same adapter under another domain."""
    folder = tmp_path_factory.mktemp("matrix")
    for name in ("toy-colours", "play-copy"):
        shutil.copytree(colours_adapter, folder / name)
    return folder


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def matrix(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    capsys.readouterr()
    status = main(["matrix", *map(str, arguments), "--threads", "1"])
    return Done(status, *capsys.readouterr())


def test_cells_of_the_own_domain_and_the_same_share_of_others() -> None:
    tasks = [f"{domain}-{i}" for domain in ("a", "b") for i in range(40)]
    systems = [f"{domain}-l{i}" for domain in ("a", "b") for i in range(10)]
    cells = wanted_cells(tasks, systems, 0.1)
    own = [cell for cell in cells if cell.system[0] == cell.task[0] and cell.system != "base"]
    across = set(cells) - set(own) - {Cell(task, "base") for task in tasks}
    assert len(own) == 800
    assert 40 <= len(across) <= 120
    fewer = wanted_cells(tasks[:60], systems[:15], 0.1)
    assert set(fewer) == {cell for cell in cells if cell.task in tasks[:60] and cell.system in ["base", *systems[:15]]}
    assert len(wanted_cells(tasks, systems, 1.0)) == len(tasks) * (len(systems) + 1)


def test_with_candidates_only_their_cells_and_the_base_models_are_wanted() -> None:
    cells = wanted_cells(["d-x", "e-y"], ["d-a", "e-b"], 1.0, {"d-x": ["e-b"]})
    assert cells == [Cell("d-x", "base"), Cell("d-x", "e-b"), Cell("e-y", "base")]
    with pytest.raises(InvalidInput, match="no learnware d-c"):
        wanted_cells(["d-x"], ["d-a"], 1.0, {"d-x": ["d-c"]})


def test_candidates_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "candidates.json"
    path.write_text('{"d-x": ["e-b", "d-a"], "e-y": []}')
    assert read_candidates(path) == {"d-x": ["e-b", "d-a"], "e-y": []}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read .*: No such file"),
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b'["d-a"]', "an object; it must be a JSON object that gives each task a list"),
        (b'{"d-x": "d-a"}', "'d-x': Input should be a valid array"),
        (b'{"d-x": ["d-a", 3]}', "'d-x': 1: Input should be a valid string"),
        (b"{}", "names no task"),
    ],
    ids=["none", "empty", "bytes", "list", "name", "number", "no task"],
)
def test_a_file_of_candidates_that_is_none_is_refused_in_words(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "candidates.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=says) as refused:
        read_candidates(path)
    assert str(path) in str(refused.value)


def test_fewer_rows_are_the_first_of_more() -> None:
    rows = read_rows_of(40)
    ten, thirty = sampled(rows, 10), sampled(rows, 30)
    assert thirty.positions[:10] == ten.positions
    assert thirty.positions != sorted(thirty.positions)
    assert ten.rows == [rows[i] for i in ten.positions]
    assert sorted(sampled(rows, 99).positions) == list(range(40))


def test_probes_are_rows_that_training_holds_out() -> None:
    rows = read_rows_of(100)
    held = set(hold_out(rows, TrainingSettings().held_out_share, TrainingSettings().seed)[1])
    assert set(sampled(rows, 99, probes=True).positions) == held
    assert set(sampled(rows, 5, probes=True).positions) < held


def test_the_gold_answers_probability_is_among_the_choices() -> None:
    assert RowScore((-1.0, -1.0 - math.log(3)), 0, True).gold_probability == pytest.approx(0.75)
    assert RowScore((math.log(0.2),), 0, False).gold_probability == pytest.approx(0.2)


def read_rows_of(count: int) -> list:
    from serving.training.rows import Row

    return [Row(f"prompt {i}", "yes", ("yes", "no")) for i in range(count)]


def test_a_matrix_is_measured_once_and_agrees_when_measured_again(
    learnwares: Path, colours: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "play").mkdir(parents=True)
    shutil.copytree(colours / "toy", tmp_path / "data" / "toy")
    shutil.copy(colours / "toy" / "colours.test.jsonl", tmp_path / "data" / "play" / "other.test.jsonl")
    common = ["--data", tmp_path / "data", "--learnwares", learnwares, "--out", tmp_path / "out"]
    common += ["--base", tiny_base, "--base-id", "tiny"]
    first = matrix(capsys, *common, "--max-rows", 20, "--across", 0, "--json", tmp_path / "matrix.json")
    assert first.returncode == 0, first.stderr
    scores = read_scores(tmp_path / "matrix.json")
    assert {task: sorted(found.right) for task, found in scores.items()} == {
        "play-other": ["base", "play-copy"],
        "toy-colours": ["base", "toy-colours"],
    }
    found = scores["toy-colours"]
    assert found.right["toy-colours"].mean() >= 0.8 > found.right["base"].mean()
    assert found.gold["toy-colours"].mean() > found.gold["base"].mean()
    content = (tmp_path / "matrix.json").read_bytes()
    cells = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out" / "cells").iterdir())
    again = matrix(capsys, *common, "--max-rows", 20, "--across", 0, "--json", tmp_path / "matrix.json")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "matrix.json").read_bytes() == content
    assert [name for name, _ in cells] == sorted(path.name for path in (tmp_path / "out" / "cells").iterdir())

    shutil.rmtree(tmp_path / "out")
    more = matrix(capsys, *common, "--max-rows", 30, "--across", 0, "--json", tmp_path / "more.json")
    assert more.returncode == 0, more.stderr
    shutil.rmtree(tmp_path / "out")
    shutil.copy(tmp_path / "matrix.json", tmp_path / "resumed.json")
    resumed = matrix(capsys, *common, "--max-rows", 30, "--across", 0, "--json", tmp_path / "resumed.json")
    assert resumed.returncode == 0, resumed.stderr
    lines = sum(len(path.read_bytes().splitlines()) for path in (tmp_path / "out" / "cells").iterdir())
    assert (
        lines == 10 * 2
    )  # both tasks have the same rows and both learnwares the same weights: once each, and the base
    ours, anew = read_scores(tmp_path / "resumed.json"), read_scores(tmp_path / "more.json")
    for task, scores in ours.items():
        assert scores.rows == anew[task].rows
        for system, values in scores.gold.items():
            assert values == pytest.approx(anew[task].gold[system], abs=0.1)

    verify = [*common, "--verify", tmp_path / "matrix.json", "--share", 1]
    agrees = matrix(capsys, *verify)
    assert agrees.returncode == 0, agrees.stdout
    assert "2 of 2 cells measured again, all agree" in agrees.stdout
    wrong = json.loads(content)
    bits = wrong["tasks"]["toy-colours"]["right"]["toy-colours"]
    wrong["tasks"]["toy-colours"]["right"]["toy-colours"] = bits.translate(str.maketrans("01", "10"))
    (tmp_path / "matrix.json").write_text(json.dumps(wrong))
    disagrees = matrix(capsys, *verify)
    assert disagrees.returncode == 1
    assert "1 of 2 cells disagree" in disagrees.stdout


def test_a_result_grows_task_by_task(
    learnwares: Path, colours: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(colours / "toy", tmp_path / "data" / "toy")
    shutil.copy(colours / "toy" / "colours.test.jsonl", tmp_path / "data" / "toy" / "shades.test.jsonl")
    common = ["--data", tmp_path / "data", "--learnwares", learnwares, "--out", tmp_path / "out", "--across", 0]
    common += ["--base", tiny_base, "--base-id", "tiny", "--json", tmp_path / "matrix.json"]
    for task, rows in (("toy-colours", 12), ("toy-shades", 5)):
        done = matrix(capsys, *common, "--tasks", task, "--max-rows", rows)
        assert done.returncode == 0, done.stderr
    scores = read_scores(tmp_path / "matrix.json")
    assert {task: len(found.rows) for task, found in scores.items()} == {"toy-colours": 12, "toy-shades": 5}
    assert scores["toy-shades"].right["toy-colours"].mean() >= 0.8
    verified = matrix(capsys, *common, "--verify", tmp_path / "matrix.json", "--share", 1)
    assert "2 of 2 cells measured again, all agree" in verified.stdout


def test_the_capability_is_written_from_probes(
    learnwares: Path, colours: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(learnwares, tmp_path / "learnwares")
    common = ["--data", colours, "--learnwares", tmp_path / "learnwares", "--out", tmp_path / "out"]
    common += ["--base", tiny_base, "--base-id", "tiny", "--max-rows", 12, "--write-capability"]
    refused = matrix(capsys, *common)
    assert refused.returncode == 1
    assert "never ranked by test rows" in refused.stderr
    done = matrix(capsys, *common, "--probes")
    assert done.returncode == 0, done.stderr
    capability = load_capability(tmp_path / "learnwares" / "toy-colours" / "specification")
    assert capability is not None
    assert list(capability.probes) == ["toy-colours"]
    probe = capability.probes["toy-colours"]
    assert probe.rows == 12
    assert probe.accuracy > probe.base_accuracy
    assert probe.probability > probe.base_probability
    assert probe.at_least_base > 0.8
    assert capability.adapter_sha256 == adapter_hash(tmp_path / "learnwares" / "toy-colours")


def test_what_cannot_be_scored_is_named(learnwares: Path, colours: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no adapter"):
        adapter_folders([tmp_path])
    with pytest.raises(InvalidInput, match="play-copy is in"):
        adapter_folders([learnwares, learnwares])
    with pytest.raises(InvalidInput, match="no task toy-shapes"):
        task_rows(colours, {"toy-colours": learnwares}, ["toy-shapes"])
