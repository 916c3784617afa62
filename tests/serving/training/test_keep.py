"""Keep rows: which prompts they are, what is measured at them, and that training with them keeps the base."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from serving.cli.main import main
from serving.training.adapter import add_adapter, load_base, train_adapter
from serving.training.generation import greedy_answers
from serving.training.keep import Keeper, keep_prompts, mixed_batches
from serving.training.rows import EncodedRow, Row, common_prefix, encode_prompt, read_rows
from serving.training.settings import TrainingSettings
from serving.training.split_model import Stack
from specs.errors import InvalidInput
from specs.off_task import off_task_prompts
from specs.prompts import MEASURED, REHEARSED, domain_questions, everyday_prompts, half, other_asks

SETTINGS = TrainingSettings(
    first_layer_share=0.5, learning_rate=1e-2, epochs=6, patience=20, max_length=96, keep_rows=24, keep_batch=4
)


def quiet(*_: object) -> None:
    """Progress that nobody watches."""


def rows_about(topic: str, count: int = 60) -> list[Row]:
    return [
        Row(f"Is it good or bad?\nThe {topic} number {i} was {i % 7} today.\nAnswer:", "good", ("good", "bad"))
        for i in range(count)
    ]


def known_prompts() -> tuple[set[str], set[str]]:
    everyday = set(everyday_prompts())
    return everyday, {prompt for prompts in domain_questions().values() for prompt in prompts}


def test_keep_prompts_are_of_three_kinds_and_none_is_the_tasks_own() -> None:
    rows = rows_about("weather")
    prompts = keep_prompts(rows, 90, 0)
    everyday, questions = known_prompts()
    asked = [prompt for prompt in prompts if any(row.prompt.split("\n")[1] in prompt for row in rows)]
    kinds = (len(everyday & set(prompts)), len(questions & set(prompts)), len(asked))
    assert sum(kinds) == len(prompts) == len(set(prompts))
    assert min(kinds) >= 20
    assert all("Is it good or bad?" not in prompt and not prompt.endswith("Answer:") for prompt in asked)
    assert all(any(ask in prompt for ask in other_asks()) for prompt in asked)
    listed = Row(prompts[0], "good", ("good", "bad"))
    assert prompts[0] not in keep_prompts([*rows, listed], 90, 0)
    assert keep_prompts(rows, 0, 0) == []


def test_half_of_the_projects_prompts_is_left_for_measuring() -> None:
    prompts = keep_prompts(rows_about("weather"), 2000, 3)
    everyday, questions = known_prompts()
    unseen = set(half([*everyday, *questions], MEASURED))
    asks = half(other_asks(), MEASURED)
    rehearsed_asks = half(other_asks(), REHEARSED)
    assert not unseen & set(prompts)
    assert len(set(prompts) - everyday - questions) > 100
    for prompt in set(prompts) - everyday - questions:
        own = [ask for ask in rehearsed_asks if ask in prompt]
        assert own or not any(ask in prompt for ask in asks), prompt


def test_the_draw_depends_on_the_seed_and_runs_for_several_tasks_share_prompts() -> None:
    weather, rent = (keep_prompts(rows_about(topic), 90, 0) for topic in ("weather", "rent"))
    assert weather == keep_prompts(rows_about("weather"), 90, 0)
    everyday, questions = known_prompts()
    shared = everyday | questions
    assert {p for p in weather if p in shared} == {p for p in rent if p in shared}
    assert set(weather) != set(keep_prompts(rows_about("weather"), 90, 1))


def test_few_rows_and_long_material_are_no_obstacle() -> None:
    prompts = keep_prompts([Row("Label it.\n" + "word " * 2000, "x", ("x", "y"))], 60, 0)
    assert len(prompts) > 40
    assert max(map(len, prompts)) < 1500


def test_batches_hold_each_row_once_and_rows_of_one_length_together() -> None:
    rows = list(range(40))
    cut = mixed_batches(rows, lambda i: i % 2, 4, "a")
    assert sorted(i for batch in cut for i in batch) == rows
    assert sum(len({i % 2 for i in batch}) == 1 for batch in cut) == 10
    assert cut == mixed_batches(rows, lambda i: i % 2, 4, "a") != mixed_batches(rows, lambda i: i % 2, 4, "b")


@pytest.fixture
def keeper(tiny_base: Path) -> tuple[Keeper, torch.nn.Module, list[EncodedRow]]:
    """A keeper over a freshly adapted model in fp32, the model, and the keep rows."""
    model, tokenizer = load_base(tiny_base, "cpu", torch.float32)
    prompts = [encode_prompt(text, tokenizer, 96) for text in ("hello", "the old house", "what is red?", "a car", "go")]
    answers = greedy_answers(model, tokenizer, prompts, 6)
    rows = [EncodedRow(prompt, list(answer.tokens)) for prompt, answer in zip(prompts, answers, strict=True)]
    adapted = add_adapter(model, SETTINGS, 2, 4)
    stack = Stack(model, 2, prompts[0][: common_prefix(prompts)])
    return Keeper(stack, rows, 2, 0, adapted.disable_adapter), adapted, rows


def test_a_fresh_adapter_is_no_step_from_the_base(keeper) -> None:
    kept, _, _ = keeper
    assert float(kept.step(0).detach()) == pytest.approx(0, abs=1e-5)
    assert kept.held_out() == pytest.approx(0, abs=1e-5)
    assert sorted(kept.train + kept.held) == list(range(5))


def test_the_divergence_is_that_of_the_plain_models_and_has_gradients(keeper) -> None:
    kept, adapted, rows = keeper
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.2)
    expected, tokens = 0.0, 0
    with torch.no_grad():
        for row in (rows[i] for i in kept.held):
            ids = torch.tensor([[*row.prompt, *row.answer]])
            sides = []
            for context in (adapted.disable_adapter(), nullcontext()):
                with context:
                    sides.append(torch.log_softmax(adapted(ids).logits[0, len(row.prompt) - 1 : -1], -1))
            expected += float((sides[0].exp() * (sides[0] - sides[1])).sum())
            tokens += len(row.answer)
    assert expected / tokens > 0.01
    assert kept.held_out() == pytest.approx(expected / tokens, rel=1e-3)
    kept.step(0).backward()
    assert all(parameter.requires_grad for parameter in parameters), "the base's pass must leave the adapter on"
    assert sum(float(parameter.grad.abs().sum()) for parameter in parameters) > 0


def record_of(data: Path, base: Path, out: Path, **changes: object) -> dict:
    """Trains on the toy task and returns the record."""
    rows = read_rows(data / "toy" / "colours.train.jsonl")
    train_adapter(rows, base, "tiny", out, SETTINGS.model_copy(update=changes), quiet, quiet)
    return json.loads((out / "training.json").read_text())


@pytest.mark.slow
def test_training_with_keep_rows_stays_nearer_to_the_base_and_learns_the_task(
    colours: Path, tiny_base: Path, tmp_path: Path
) -> None:
    kept = record_of(colours, tiny_base, tmp_path / "kept")
    barely = record_of(colours, tiny_base, tmp_path / "barely", keep_weight=1e-9)
    assert kept["best"]["exact"] >= 0.85
    assert 0 < kept["best"]["drift"] < 0.5 * barely["best"]["drift"]
    assert kept["keep_prompts"] == 24
    assert kept["fingerprint"] != barely["fingerprint"]
    assert kept["history_columns"][-1] == "drift"


def test_other_keep_settings_are_another_run_and_none_needs_no_answers(
    colours: Path, tiny_base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapter"
    alone = record_of(colours, tiny_base, out, keep_rows=0, max_steps=1)
    assert (alone["keep_prompts"], alone["best"]["drift"]) == (0, 0)
    assert not (out / "base-answers").exists()
    again = record_of(colours, tiny_base, out, keep_rows=8, max_steps=1)
    assert again["fingerprint"] != alone["fingerprint"]
    assert again["keep_prompts"] == 8


def test_a_run_can_begin_with_another_adapter(
    colours_adapter: Path, colours: Path, tiny_base: Path, tmp_path: Path
) -> None:
    rows = read_rows(colours / "toy" / "colours.train.jsonl")
    first = json.loads((colours_adapter / "training.json").read_text())
    brief = SETTINGS.model_copy(update={"keep_rows": 0, "max_steps": 1, "learning_rate": 1e-6})

    def go_on(name: str, settings: TrainingSettings) -> dict:
        train_adapter(rows, tiny_base, "tiny", tmp_path / name, settings, quiet, quiet, start=colours_adapter)
        return json.loads((tmp_path / name / "training.json").read_text())

    second = go_on("second", brief)
    assert second["best"]["loss"] == pytest.approx(first["best"]["loss"], abs=0.02)
    assert second["started_from"] is not None
    assert first["started_from"] is None
    fresh = record_of(colours, tiny_base, tmp_path / "fresh", keep_rows=0, max_steps=1, learning_rate=1e-6)
    assert fresh["best"]["loss"] > second["best"]["loss"] + 0.1
    for changes in ({"rank": 4}, {"alpha": 8.0}, {"first_layer_share": 0.0}, {"target_modules": ("q_proj",)}):
        with pytest.raises(InvalidInput, match="other layers, ranks or scale"):
            go_on("third", brief.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_rslora": True}, "other layers, ranks or scale"),
        ({"alpha_pattern": {"q_proj": 1}, "rank_pattern": {}}, "other layers, ranks or scale|alpha_pattern"),
        ({"alora_invocation_tokens": [5, 6]}, "cannot be begun with: .*alora_invocation_tokens"),
    ],
)
def test_what_an_engine_would_compute_otherwise_is_no_beginning(
    colours_adapter: Path, colours: Path, tiny_base: Path, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    start = Path(shutil.copytree(colours_adapter, tmp_path / "start"))
    config = json.loads((start / "adapter_config.json").read_text()) | changes
    (start / "adapter_config.json").write_text(json.dumps(config))
    rows = read_rows(colours / "toy" / "colours.train.jsonl")
    settings = SETTINGS.model_copy(update={"keep_rows": 0, "max_steps": 1})
    with pytest.raises(InvalidInput, match=reason):
        train_adapter(rows, tiny_base, "tiny", tmp_path / "out", settings, quiet, quiet, start=start)


def test_the_command_line_turns_keeping_off_and_refuses_no_weight(
    colours: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--rows", str(colours / "toy" / "colours.train.jsonl"), "--base", str(tiny_base)]
    command += ["--base-id", "tiny", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    command += ["--max-steps", "1", "--threads", "1", "--max-length", "64"]
    assert main([*command, "--no-keep"]) == 0
    assert json.loads((tmp_path / "out" / "training.json").read_text())["settings"]["keep_rows"] == 0
    assert not (tmp_path / "cache").exists()
    assert main([*command, "--keep-rows", "6", "--keep-batch", "2"]) == 0
    assert json.loads((tmp_path / "out" / "training.json").read_text())["keep_prompts"] == 6
    assert len(list((tmp_path / "cache").rglob("*.jsonl"))) == 1
    assert main([*command, "--keep-weight", "0"]) == 1
    assert "--keep-weight" in capsys.readouterr().err


def test_nobody_is_measured_on_what_training_rehearses() -> None:
    rehearsed = set(keep_prompts(rows_about("weather"), 3000, 0))
    assert len(rehearsed) > 1000
    for domain in ("finance", "healthcare", "mathematics", "law"):
        for kind, prompts in off_task_prompts(domain, ["What is the mood of this headline?"]).items():
            assert prompts
            assert not rehearsed & set(prompts), kind
