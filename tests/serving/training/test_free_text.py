"""Tasks that are answered in sentences: scored a token, answered and compared, reported beside their controls."""

import json
import math
from pathlib import Path

import pytest
import torch

from serving.cli.main import main
from serving.training.adapter import load_base, train_adapter
from serving.training.free_text import Said, final_numbers, rouge_l, text_report, text_table
from serving.training.rows import Row, encode_answer, encode_prompt, read_rows, rows_kind
from serving.training.scoring import BASE, RowScore, Scorer, read_cell
from serving.training.settings import TrainingSettings
from specs.capability import load_capability
from tests.serving.conftest import colour_rows, write_rows


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


def sentence_rows(count: int, seed: int) -> list[dict[str, object]]:
    """The colours of `colour_rows`, answered at length: style is quickly learned, and what is said follows from the
    prompt."""
    return [{"prompt": row["prompt"], "answer": " ".join([str(row["answer"])] * 9)} for row in colour_rows(count, seed)]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one task, toy-tales: 120 train and 24 test rows."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "toy" / "tales.train.jsonl", sentence_rows(120, 1))
    write_rows(folder / "toy" / "tales.test.jsonl", sentence_rows(24, 2))
    return folder


@pytest.fixture(scope="module")
def adapters(sentences: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """learnwares/toy-tales and controls/toy-tales."""
    folder = tmp_path_factory.mktemp("adapters")
    rows = read_rows(sentences / "toy" / "tales.train.jsonl")
    for name, shuffled in (("learnwares", False), ("controls", True)):
        settings = TrainingSettings(
            first_layer_share=0.5,
            learning_rate=1e-2,
            epochs=8,
            patience=30,
            max_length=64,
            keep_rows=0,
            shuffle_answers=shuffled,
        )
        train_adapter(rows, tiny_base, "tiny", folder / name / "toy-tales", settings, quiet, quiet)
    return folder


def test_a_sentence_counts_by_the_token_and_without_the_end_of_turn(
    sentences: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = read_rows(sentences / "toy" / "tales.test.jsonl")[:4]
    assert rows_kind(rows) == "text"
    scorer = Scorer(tiny_base, "tiny", {}, tmp_path)
    scorer.model.float()
    scored = scorer.score(rows, BASE, quiet)
    model, tokenizer = load_base(tiny_base, "cpu", torch.float32)
    for row, score in zip(rows, scored, strict=True):
        prompt, answer = encode_prompt(row.prompt, tokenizer, 2048), encode_answer(row.answer, tokenizer, end=False)
        with torch.no_grad():
            log_probs = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
        expected = [float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
        assert score.tokens == len(answer)
        assert score.gold_log_likelihood == pytest.approx(sum(expected) / len(expected), abs=1e-3)
        assert score.gold_probability == pytest.approx(math.exp(sum(expected) / len(expected)), abs=1e-3)
    (cell,) = tmp_path.glob("*.jsonl")
    assert [read_cell(cell)[i] for i in range(4)] == scored


def test_a_few_rows_of_a_task_are_scored_as_the_task_is(tiny_base: Path, tmp_path: Path) -> None:
    scorer = Scorer(tiny_base, "tiny", {}, tmp_path)
    rows = [Row("tell of a car", "the car")]
    alone, as_text = scorer.score(rows, BASE, quiet), scorer.score(rows, BASE, quiet, "text")
    assert (alone[0].tokens, as_text[0].tokens > 0) == (0, True)
    assert alone[0].gold_log_likelihood < as_text[0].gold_log_likelihood
    assert scorer.score(rows, BASE, quiet) == alone, "the two are kept apart"


def test_scores_kept_before_there_were_sentences_are_read(tmp_path: Path) -> None:
    (tmp_path / "cell.jsonl").write_text('{"row": 0, "scores": [-1.5, -0.5], "gold": 1, "greedy": true}\n')
    (score,) = read_cell(tmp_path / "cell.jsonl").values()
    assert (score.right, score.gold_log_likelihood, score.tokens) == (True, -0.5, 0)


def test_what_is_said_is_kept_and_is_the_adapters(
    sentences: Path, adapters: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = read_rows(sentences / "toy" / "tales.test.jsonl")[:6]
    scorer = Scorer(tiny_base, "tiny", {"toy-tales": adapters / "learnwares" / "toy-tales"}, tmp_path)
    own, base = (scorer.say(rows, name, 60, quiet) for name in ("toy-tales", BASE))
    overlap = [sum(rouge_l(said, row.answer) for said, row in zip(texts, rows, strict=True)) for texts in (own, base)]
    assert overlap[0] > overlap[1] + 2
    (cell,) = [path for path in tmp_path.glob("*said*") if own[0] in path.read_text()]
    lines = cell.read_text().splitlines(keepends=True)
    first = json.loads(lines[0])
    cell.write_text(json.dumps(first | {"text": "marked"}) + "\n" + "".join(lines[1:3]) + lines[3][:5])
    again = scorer.say(rows, "toy-tales", 60, quiet)
    assert again[first["row"]] == "marked"
    assert [text for i, text in enumerate(again) if i != first["row"]] == [
        text for i, text in enumerate(own) if i != first["row"]
    ]


def test_the_command_sets_a_learnware_beside_its_base_and_its_control(
    sentences: Path, adapters: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "--data", sentences, "--learnwares", adapters / "learnwares", "--out", tmp_path / "out"]
    command += ["--controls", adapters / "controls", "--base", tiny_base, "--base-id", "tiny", "--threads", "1"]
    assert main([*map(str, command), "--said-rows", "5", "--said-tokens", "60"]) == 0
    report = json.loads((tmp_path / "out" / "scores.json").read_text())
    task = report["tasks"]["toy-tales"]
    likelihoods = {name: system["log_likelihood_a_token"]["mean"] for name, system in task["systems"].items()}
    assert min(likelihoods["learnware"], likelihoods["shuffled"]) > likelihoods["base"] + 1
    assert task["against"]["base"]["better"]
    over_style = task["against"]["shuffled"]
    assert over_style["better"] == (over_style["log_likelihood_a_token"]["low"] > 0)
    assert report["beat_all_controls"] == (["toy-tales"] if over_style["better"] else [])
    assert task["systems"]["base"]["answered"] == 5
    assert "sentences" in report["text_protocol"]
    assert "| `toy-tales` | 24 |" in capsys.readouterr().out


def test_a_capability_says_how_often_sentences_are_at_least_as_likely_as_by_the_base(
    sentences: Path, adapters: Path, tiny_base: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(adapters / "learnwares", tmp_path / "learnwares")
    command = ["matrix", "--data", sentences, "--learnwares", tmp_path / "learnwares", "--out", tmp_path / "out"]
    command += ["--base", tiny_base, "--base-id", "tiny", "--threads", "1", "--probes", "--write-capability"]
    assert main(list(map(str, command))) == 0
    capability = load_capability(tmp_path / "learnwares" / "toy-tales" / "specification")
    assert capability is not None
    probe = capability.probes["toy-tales"]
    assert probe.at_least_base == 1
    assert 0 > probe.log_likelihood > probe.base_log_likelihood > -20
    assert probe.probability > probe.base_probability
    assert "sentences" in capability.protocol
    result = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert result["tasks"]["toy-tales"]["kind"] == "text"
    assert main(list(map(str, command))) == 0, "the result alone is enough to go on from"


def said(likelihoods: list[float], texts: list[str]) -> Said:
    return Said([RowScore((10 * value,), 0, False, 10) for value in likelihoods], texts)


@pytest.mark.slow
def test_a_report_says_what_is_better_than_which_control_and_by_how_much() -> None:
    gold = [f"he has {i} apples. The answer is {i}." for i in range(40)]
    base = said([-2.0 - 0.01 * (i % 5) for i in range(40)], ["I do not know"] * 40)
    style = said([-1.5 + 0.2 * (-1) ** i for i in range(40)], [f"The answer is {i + 1}." for i in range(40)])
    own = said([-1.5 for _ in range(40)], [f"The answer is {i}.0!" for i in range(20)] + ["The answer is 1,000."] * 20)
    report = text_report({"base": base, "learnware": own, "shuffled": style}, gold)
    assert report["against"]["base"]["better"]
    assert not report["against"]["shuffled"]["better"]
    assert report["beats_all_controls"] is False
    assert report["against"]["base"]["log_likelihood_a_token"]["mean"] == pytest.approx(0.52, abs=1e-3)
    numbers = {name: system["final_number"]["mean"] for name, system in report["systems"].items()}
    assert numbers == {"base": 0, "learnware": 0.5, "shuffled": 0}
    assert report["against"]["base"]["final_number"]["mcnemar_p"] < 0.01
    assert "**no**" not in text_table({"a-b": report})
    assert "+0.52 (+0.52 to +0.52)" in text_table({"a-b": report})
    partial = text_report({"base": base, "learnware": own}, ["words only"] * 40)
    assert partial["beats_all_controls"] is None
    assert "final_number" not in partial["systems"]["base"]
    assert "| – |" in text_table({"a-b": partial})


@pytest.mark.parametrize(
    ("answers", "numbers"),
    [
        (["so 3 x 4 = 12 eggs\nThe answer is 12.", "It costs $1,250.50"], [12, 1250.5]),
        (["The answer is -3."], [-3]),
        (["growth of 5 %"], [5]),
        (["There are 5 of them in the box"], []),
        (["The answer is 12.", "twelve", "thirteen"], []),
    ],
)
def test_answers_that_end_with_a_number_have_one(answers: list[str], numbers: list[float]) -> None:
    assert final_numbers(answers) == numbers
