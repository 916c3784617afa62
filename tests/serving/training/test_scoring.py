"""Scoring: what is counted, that it is counted once, and the statistics."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from serving.cli.main import main
from serving.training.adapter import load_base
from serving.training.report import majority_scores, table, task_report, with_earlier_control
from serving.training.rows import Row, encode_answer, encode_prompt, read_rows
from serving.training.scoring import BASE, PASS_TOKENS, ROWS_A_PASS, RowScore, Scorer, passes, read_cell
from serving.training.statistics import compare, estimate, mcnemar


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def adapters(colours_adapter: Path, colours_control: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """learnwares/toy-colours and controls/toy-colours."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, trained in (("learnwares", colours_adapter), ("controls", colours_control)):
        shutil.copytree(trained, folder / name / "toy-colours")
    return folder


def test_scores_are_the_sums_that_the_plain_model_gives(
    adapters: Path, colours: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = read_rows(colours / "toy" / "colours.test.jsonl")[:5]
    long = Row(rows[0].prompt, "a small old house", ("warm", "a small old house", "a small car", "x"))
    rows.append(long)
    scorer = Scorer(tiny_base, "tiny", {"toy-colours": adapters / "learnwares" / "toy-colours"}, tmp_path)
    scorer.model.float()
    scores = {name: scorer.score(rows, name, quiet) for name in (BASE, "toy-colours")}
    assert scores[BASE] != scores["toy-colours"]
    model, tokenizer = load_base(tiny_base, "cpu")
    model.float()
    for row, score in zip(rows, scores[BASE], strict=True):
        prompt = encode_prompt(row.prompt, tokenizer, 2048)
        for choice, found in zip(row.choices, score.scores, strict=True):
            answer = encode_answer(choice, tokenizer, end=False)
            with torch.no_grad():
                log_probs = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0].float(), -1)
            expected = sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
            assert found == pytest.approx(expected, abs=1e-3)
    assert [score.gold for score in scores[BASE]] == [row.choices.index(row.answer) for row in rows]


def test_a_finished_row_is_not_scored_again_and_a_cut_line_is(
    adapters: Path, colours: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = read_rows(colours / "toy" / "colours.test.jsonl")[:20]
    scorer = Scorer(tiny_base, "tiny", {"toy-colours": adapters / "learnwares" / "toy-colours"}, tmp_path)
    first = scorer.score(rows, "toy-colours", quiet)
    (cell,) = tmp_path.glob("*.jsonl")
    content = cell.read_bytes()
    lines = content.splitlines(keepends=True)
    item = json.loads(lines[0])
    marked = item | {"scores": [-1.25] * len(item["scores"])}
    cell.write_bytes(json.dumps(marked).encode() + b"\n" + b"".join(lines[1:10]) + lines[10][:20])
    again = scorer.score(rows, "toy-colours", quiet)
    assert again[item["row"]].scores == (-1.25, -1.25)
    for number, (one, other) in enumerate(zip(first, again, strict=True)):
        if number != item["row"]:
            assert other.scores == pytest.approx(one.scores, abs=0.1)
    assert sorted(read_cell(cell)) == list(range(20))
    before = cell.read_bytes()
    assert scorer.score(rows, "toy-colours", quiet) == again
    assert cell.read_bytes() == before


@pytest.mark.parametrize("lengths", [[5], [10, 11, 12, 40, 41, 60], [50] * 40, list(range(1, 200, 7)), []])
def test_rows_are_cut_into_the_cheapest_passes(lengths: list[int]) -> None:
    cut = passes(lengths)
    assert [i for begin, end in cut for i in range(begin, end)] == list(range(len(lengths)))
    assert all(end - begin <= ROWS_A_PASS for begin, end in cut)

    def cost(parts: list[tuple[int, int]]) -> int:
        return sum((end - begin) * lengths[end - 1] + PASS_TOKENS for begin, end in parts)

    for size in range(1, ROWS_A_PASS + 1):
        even = [(begin, min(begin + size, len(lengths))) for begin in range(0, len(lengths), size)]
        assert cost(cut) <= cost(even)


def test_what_is_kept_of_one_adapter_is_not_used_for_the_next(
    adapters: Path, colours: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = read_rows(colours / "toy" / "colours.test.jsonl")[:12]
    two = {name: adapters / name / "toy-colours" for name in ("learnwares", "controls")}
    both = Scorer(tiny_base, "tiny", two, tmp_path / "both")
    for name, folder in two.items():
        alone = Scorer(tiny_base, "tiny", {name: folder}, tmp_path / name).score(rows, name, quiet)
        found = both.score(rows, name, quiet)
        for one, other in zip(alone, found, strict=True):
            assert other.scores == pytest.approx(one.scores, abs=0.1)
    learnware, control = (both.score(rows, name, quiet) for name in two)
    assert max(abs(a.scores[0] - b.scores[0]) for a, b in zip(learnware, control, strict=True)) > 0.5


def test_rows_without_choices_are_right_when_greedy_decoding_gives_exactly_them(
    tiny_base: Path, tmp_path: Path
) -> None:
    scorer = Scorer(tiny_base, "tiny", {}, tmp_path)
    model, tokenizer = load_base(tiny_base, "cpu")
    prompt = encode_prompt("how many?", tokenizer, 2048)
    with torch.no_grad():
        first = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
    said = Row("how many?", tokenizer.decode([first]))
    scored = scorer.score([said, Row("how many?", "7 and more")], BASE, quiet)
    with torch.no_grad():
        answer = encode_answer(said.answer, tokenizer)
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
    ends = bool((logits.argmax(-1) == torch.tensor(answer)).all())
    assert [len(row.scores) for row in scored] == [1, 1]
    assert (scored[0].right, scored[1].right) == (ends, False)
    expected = float(torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None]).sum())
    assert scored[0].gold_log_likelihood == pytest.approx(expected, abs=0.1)


def test_the_command_shows_a_learnware_that_beats_its_controls(
    adapters: Path, colours: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--data", colours, "--learnwares", adapters / "learnwares"]
    command += ["--controls", adapters / "controls", "--base", tiny_base, "--base-id", "tiny", "--out", tmp_path]
    assert main([str(part) for part in [*command, "--threads", "1"]]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "scores.json").read_text())
    task = report["tasks"]["toy-colours"]
    assert task["rows"] == 40
    systems = {name: system["accuracy"]["mean"] for name, system in task["systems"].items()}
    assert systems["learnware"] >= 0.9
    assert max(systems["base"], systems["majority"], systems["shuffled"]) <= 0.75
    assert report["beat_all_controls"] == ["toy-colours"]
    assert "| `toy-colours` | 40 |" in printed
    assert "| yes |" in printed


def scores(rights: str) -> list[RowScore]:
    """Two-choice rows, right where the letter is r."""
    return [RowScore((-0.1, -2.0) if letter == "r" else (-2.0, -0.1), 0, letter == "r") for letter in rights]


def test_a_report_says_which_controls_are_not_beaten() -> None:
    learnware = scores("r" * 40)
    controls = {"base": scores("w" * 40), "majority": scores("rw" * 20), "shuffled": scores("r" * 37 + "www")}
    report = task_report(controls | {"learnware": learnware})
    assert [report["against"][name]["better"] for name in ("base", "majority", "shuffled")] == [True, True, False]
    assert report["beats_all_controls"] is False
    assert report["systems"]["shuffled"]["accuracy"]["mean"] == 0.925
    assert "**no**" in table({"a-b": report})
    partial = task_report({"base": controls["base"], "learnware": learnware})
    assert partial["beats_all_controls"] is None


def test_a_control_that_is_not_at_hand_is_taken_from_an_earlier_report(
    adapters: Path, colours: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["score", "--data", colours, "--learnwares", adapters / "learnwares", "--base", tiny_base]
    common += ["--base-id", "tiny", "--threads", "1", "--out"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*map(str, [*common, first, "--controls", adapters / "controls"])]) == 0
    assert main([*map(str, [*common, second, "--controls-from", first / "scores.json"])]) == 0
    with_rows, without = (
        json.loads((folder / "scores.json").read_text())["tasks"]["toy-colours"] for folder in (first, second)
    )
    assert without["systems"]["shuffled"] == with_rows["systems"]["shuffled"]
    assert without["training"]["shuffled"] == with_rows["training"]["shuffled"]
    paired, unpaired = (task["against"]["shuffled"] for task in (with_rows, without))
    assert unpaired["paired"] is False
    assert unpaired["difference"]["mean"] == pytest.approx(paired["difference"]["mean"], abs=1e-3)
    assert without["beats_all_controls"] is True
    assert main([*map(str, [*common, second, "--max-rows", 9, "--controls-from", first / "scores.json"])]) == 0
    fewer = json.loads((second / "scores.json").read_text())["tasks"]["toy-colours"]
    assert "shuffled" not in fewer["systems"], "those were other rows"
    capsys.readouterr()
    assert main([*map(str, [*common, second, "--controls-from", colours / "toy" / "colours.test.jsonl"])]) == 1
    assert "no report" in capsys.readouterr().err


def test_a_control_without_its_rows_must_be_farther_away() -> None:
    learnware = scores("r" * 30 + "w" * 10)
    controls = {"base": scores("w" * 40), "majority": scores("w" * 40)}
    report = task_report(controls | {"learnware": learnware})
    near = task_report({"base": scores("r" * 27 + "w" * 13)})["systems"]["base"]
    far = task_report({"base": scores("r" * 10 + "w" * 30)})["systems"]["base"]
    assert with_earlier_control(report, near)["beats_all_controls"] is False
    assert with_earlier_control(report, far)["beats_all_controls"] is True
    assert report["beats_all_controls"] is None


def test_the_majority_answer_is_that_of_the_train_rows() -> None:
    train = [Row("p", "yes", ("yes", "no"))] * 3 + [Row("p", "no", ("yes", "no"))]
    test = [Row("q", "no", ("yes", "no")), Row("q", "yes", ("yes", "no"))]
    first, second = majority_scores(train, test)
    assert (first.right, second.right) == (False, True)
    assert second.gold_log_likelihood == pytest.approx(math.log(4 / 6), abs=1e-4)
    free = majority_scores([Row("p", "7"), Row("q", "7"), Row("r", "8")], [Row("s", "7"), Row("t", "9")])
    assert [score.right for score in free] == [True, False]


@pytest.mark.parametrize(("gains", "losses"), [(0, 0), (1, 0), (5, 0), (6, 0), (9, 2), (30, 30), (100, 60)])
def test_mcnemar_is_the_exact_binomial_test(gains: int, losses: int) -> None:
    expected = binomtest(gains, gains + losses).pvalue if gains + losses else 1.0
    assert mcnemar(gains, losses) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(losses, gains) == mcnemar(gains, losses)


def test_intervals_cover_and_narrow() -> None:
    wide, narrow = estimate([0.0, 1.0] * 25), estimate([0.0, 1.0] * 400)
    assert wide.mean == narrow.mean == 0.5
    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(50), rel=0.1)
    assert math.isnan(estimate([]).mean)


def test_only_the_same_rows_can_be_compared() -> None:
    with pytest.raises(ValueError, match="3 and 2 rows"):
        compare([True] * 3, [True] * 2)
    same = compare([True, False] * 20, [True, False] * 20)
    assert (same.p, same.better, same.difference.mean) == (1.0, False, 0.0)
